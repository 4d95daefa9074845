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
import { createDevice } from "../src/tensor/index.ts";
import { mean, Rng } from "../src/util/index.ts";

const [models, text, windows, seeds] = process.argv.slice(2);
const device = await createDevice();

/** The values of the last of some layers, mixed from the heads of all of them. */
function mixed(
  layers: readonly Float32Array[],
  { router, heads, width }: { router: Float32Array; heads: number; width: number },
): Float32Array {
  const row = heads * width;
  const sources = layers.length * heads;
  return Float32Array.from(layers[0], (_, i) => {
    const [head, channel] = [Math.floor((i % row) / width), i % width];
    const start = i - (i % row);
    let sum = 0;
    for (let s = 0; s < sources; s++)
      sum +=
        router[head * sources + s] * layers[Math.floor(s / heads)][start + (s % heads) * width + channel];
    return sum;
  });
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
  const bySeed = Array.from({ length: Number(seeds) }, (_, seed) =>
    values.map((_, layer) => {
      const sources = layer + 1;
      const rng = new Rng(seed).fork(layer);
      const router = layer === 0 ? undefined : routerStart({ heads, sources, identity: true }, rng);
      const states = sequences.map((_, n) => {
        const upTo = values.slice(0, sources).map((of) => of.sequences[n]);
        return router ? mixed(upTo, { router, heads, width }) : upTo[0];
      });
      return mean(standardize(states, heads * width).map((z) => matrixEntropy(z, heads * width)));
    }),
  );
  found.push({ model: name, layers: bySeed });
  tokens.close();
  lm.model.dispose();
}
device.close();
console.log(JSON.stringify({ windows: Number(windows), models: found }));
