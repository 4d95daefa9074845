/**
 * One training step of an SAE on random activations, by the trainer itself: forward, loss, backward, projection, clipping, Adam,
 * decoder renormalisation, firing statistics. As in the peers no feature is dead, so AuxK rests, and the batch is made
 * outside the clock. D width · F features · K active · B batch.
 */

import { saeConfig, TRAITS } from "../sae/config.ts";
import { createSae } from "../sae/create.ts";
import { createMoments } from "../sae/optimizer.ts";
import { disposeRun, NO_LOSSES, type RunState } from "../sae/run-state.ts";
import { ownColumns } from "../sae/source.ts";
import type { StepObjective } from "../sae/step.ts";
import { saeTrainConfig } from "../sae/train-config.ts";
import type { TrainRecord } from "../sae/train-log.ts";
import { Trainer } from "../sae/trainer.ts";
import type { Device, Tensor } from "../tensor/index.ts";
import { Rng } from "../util/index.ts";
import { type BenchFigures, type BenchRepeats, figuresOf, type Yardstick, yardstick } from "./bench.ts";
import { type BenchClock, peakRssMb, repeatTimed } from "./bench-clock.ts";
import { configOfShape, type SaeShape } from "./sae-shape.ts";

export interface SaeStepSizes {
  readonly shape: SaeShape;
  readonly objective: StepObjective["objective"];
  readonly d: number;
  readonly batch: number;
  /** jumprelu: where thresholds start. */
  readonly threshold: number;
}

/** The warm-up runs without the yardstick, so that the peak memory it leaves is that of the training steps alone. */
export async function benchSaeStep(
  device: Device,
  sizes: SaeStepSizes,
  { steps, warmup, signal }: BenchRepeats,
): Promise<BenchFigures> {
  const { d, batch, shape, ...settings } = sizes;
  const rng = new Rng(0);
  const before = peakRssMb();
  const records: TrainRecord[] = [];
  const trainer = startTrainer(device, sizes, rng, records);
  const rows = device.empty([batch, d]).keep();
  const host = new Float32Array(batch * d);
  let gemm: Yardstick | undefined;
  let loss = Number.NaN;
  const step = async (clock: BenchClock) => {
    device.write(rows, rng.fillNormal(host));
    gemm?.run(clock);
    trainer.laps.lap("other");
    trainer.laps.take(); // what passed outside
    await clock.timeAsync("step", async () => {
      loss = (await trainer.step(rows)).loss;
    });
    for (const [part, ms] of Object.entries(trainer.laps.take().ms)) if (ms > 0) clock.add(part, ms);
  };
  try {
    await repeatTimed({ steps: 0, warmup: Math.max(warmup, 1), signal }, step);
    const peak = peakRssMb();
    // The product of a dense encoder, whatever the encoder is: the common yardstick.
    gemm = yardstick(device, rows, trainer.run.sae.params.wDec, true);
    const clock = await repeatTimed({ steps, warmup: 0, signal }, step);
    const parameters = Object.values<Tensor>({ ...trainer.run.sae.params }).reduce((n, t) => n + t.size, 0);
    const stateMb = (4 * parameters * 4) / 2 ** 20;
    return figuresOf(clock, {
      benchmark: "sae-step",
      sizes: { d, batch, ...sizesOf(shape), ...settings },
      tokens: batch,
      flops: gemm.flops,
      more: {
        loss,
        l0_first_step: records[0].l0,
        peak_rss_steps_mb: peak,
        rss_before_steps_mb: before,
        state_mb: stateMb,
        peak_rss_besides_state_mb: peak - stateMb,
      },
    });
  } finally {
    disposeRun(trainer.run);
    rows.dispose();
  }
}

/** What of a shape is in use. */
function sizesOf({ arch, features, k, encoder, kronM, kronN, kronProduct }: SaeShape) {
  return {
    arch,
    features,
    ...(TRAITS[arch].counted && { k }),
    encoder,
    ...(encoder === "kron" && { kron_m: kronM, kron_n: kronN, kron_product: kronProduct }),
  };
}

/** So many steps that no schedule, penalty ramp or dead feature comes into play. */
const ENDLESS = 1e6;

function startTrainer(
  device: Device,
  { shape, objective, d, batch, threshold }: SaeStepSizes,
  rng: Rng,
  records: TrainRecord[],
): Trainer {
  const config = saeConfig({ dIn: d, ...configOfShape(shape) });
  const train = saeTrainConfig(
    { tokens: ENDLESS * batch, batch, objective, warmupSteps: 0, sparsityWarmup: 0, inputNorm: "none" },
    config,
  );
  const sae = createSae(device, config, { rng, threshold });
  const run: RunState = {
    sae,
    moments: createMoments(device, sae),
    lastFired: device.zeros([config.features], "i32").keep(),
    scales: { input: 1, target: 1 },
    step: 0,
    window: NO_LOSSES,
  };
  const sink = { write: (record: TrainRecord) => void records.push(record), close: () => {} };
  return new Trainer(device, { run, train, columns: ownColumns(config), logEvery: ENDLESS, sink });
}
