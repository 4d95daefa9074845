/**
 * A tiny training run that can be a process of its own: `fork(tiny-run.js, [folder])` sends the number of each step.
 */
import { fileURLToPath } from "node:url";
import { LM_TRAIN_DEFAULTS, trainLm } from "../../src/models/index.ts";
import { createDevice } from "../../src/tensor/index.ts";
import { MemoryTokens, TokenPacker } from "../../src/text/index.ts";
import { someIds, tinyModel } from "./helpers.ts";

export const STEPS = 120;

/** Trains in `dir`, from its checkpoint if there is one; gives the parameters and the first step that it recorded. */
export async function tinyRun(dir: string, onStep?: (step: number) => void) {
  const device = await createDevice({ threads: 1 });
  const model = tinyModel(device, { dModel: 8, nLayers: 1, windowPattern: [0] }, 0.1);
  try {
    const documents = Array.from({ length: 12 }, (_, d) => someIds(15, d));
    const records = await trainLm(model, {
      config: {
        ...LM_TRAIN_DEFAULTS,
        tokens: STEPS * 2 * 8,
        batch: 2,
        micro: 1,
        logEverySteps: 1,
        checkpointEverySteps: 10,
      },
      packer: new TokenPacker(new MemoryTokens(documents), { context: 8, bos: 0, eos: 1 }),
      dir,
      onStep: ({ step }) => onStep?.(step),
    });
    const parameters = await Promise.all(model.parameters().map((t) => t.floats()));
    return { first: records[0].step, parameters };
  } finally {
    model.dispose();
    device.close();
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await tinyRun(process.argv[2], (step) => process.send?.(step));
}
