/**
 * A control for the entropy of routed values: what a mixture that nothing has learnt does to it. The values that each layer makes are
 * mixed by routers as they begin, drawn anew for each seed; the model itself is left alone. T tokens · G heads of values · C their width.
 *
 *   node dist/runs/lime-mixed.js MODEL,MODEL TEXT,TEXT… WINDOWS SEEDS
 *
 * Windows are those of `sluice lime entropy`. Writes JSON: of each model and seed the mean entropy of each layer, nats.
 */
import { layerStates, matrixEntropy, standardize } from "../src/lime/index.ts";
import { spreadWindows } from "../src/models/index.ts";
import { routerStart } from "../src/models/routing.ts";
import { openLanguageModel, openTextTokens, windowsOf } from "../src/recipes/index.ts";
import { createDevice, limeRoute } from "../src/tensor/index.ts";
import { mean, Rng } from "../src/util/index.ts";

const [models, text, windows, seeds] = process.argv.slice(2);
const device = await createDevice();

/** The values of the last of some layers, [T, G C], mixed from the heads of all of them. */
async function mixed(
  layers: readonly Float32Array[],
  { router, heads, width }: { router: Float32Array; heads: number; width: number },
): Promise<Float32Array> {
  const routed = device.scope(() => {
    const shape = [1, layers[0].length / (heads * width), heads, width];
    const values = layers.map((states) => device.tensor(states, shape));
    return limeRoute(device.tensor(router, [heads, layers.length * heads]), values, values).values;
  });
  return await routed.floats().finally(() => routed.dispose());
}

const found = [];
for (const name of models.split(",")) {
  const lm = await openLanguageModel(device, name);
  const tokens = await openTextTokens({ text: text.split(","), split: "heldout", tokenizer: lm.tokenizer });
  const packer = windowsOf(lm, tokens, { shuffle: false });
  await packer.reach(Number(windows));
  const sequences = spreadWindows(packer.windows, Number(windows)).map((window) => packer.at(window).tokens);
  const values = await layerStates(lm.model, sequences, { kind: "values" });
  const { nKvHeads: heads, headDim: width } = lm.model.spec;
  const bySeed: number[][] = [];
  for (let seed = 0; seed < Number(seeds); seed++) {
    const entropies: number[] = [];
    for (let layer = 0; layer < values.length; layer++) {
      const sources = layer + 1;
      const rng = new Rng(seed).fork(layer);
      const router = layer === 0 ? undefined : routerStart({ heads, sources, identity: true }, rng);
      const states: Float32Array[] = [];
      for (let n = 0; n < sequences.length; n++) {
        const upTo = values.slice(0, sources).map((of) => of.sequences[n]);
        states.push(router ? await mixed(upTo, { router, heads, width }) : upTo[0]);
      }
      entropies.push(mean(standardize(states, heads * width).map((z) => matrixEntropy(z, heads * width))));
    }
    bySeed.push(entropies);
  }
  found.push({ model: name, layers: bySeed });
  tokens.close();
  lm.model.dispose();
}
device.close();
console.log(JSON.stringify({ windows: Number(windows), models: found }));
