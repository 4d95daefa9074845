/**
 * The golden models: what transformers computed, every stream, pattern, gradient and greedy token. Driven by the files:
 * a family folder whose `model_type` is supported is tested whole, the others are skipped by name.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { familyOf } from "../../src/models/families/index.ts";
import { crossEntropies, generate, loadTransformer, type Transformer } from "../../src/models/index.ts";
import { type StoredSlot, toStored } from "../../src/models/stored.ts";
import { type Device, mul, slice, sum, type Tensor } from "../../src/tensor/index.ts";
import { type GoldenFile, golden, goldenPath } from "../golden.ts";
import { temporaryFolder } from "../temporary.ts";
import { assertNear, BACKENDS, withDevice } from "./helpers.ts";

/** Tensors of a fixture that are values at a hook point. `{l}` is the layer. */
const POINTS: readonly [RegExp, (layer: string) => string][] = [
  [/^resid_pre\.(\d+)$/, (l) => `blocks.${l}.hook_resid_pre`],
  [/^attn_out\.(\d+)$/, (l) => `blocks.${l}.hook_attn_out`],
  [/^mlp_out\.(\d+)$/, (l) => `blocks.${l}.hook_mlp_out`],
  [/^resid_post\.(\d+)$/, (l) => `blocks.${l}.hook_resid_post`],
  [/^attn_pattern\.(\d+)$/, (l) => `blocks.${l}.attn.hook_pattern`],
  [/^final_norm$/, () => "ln_final.hook_normalized"],
];

function pointOf(name: string): string | undefined {
  for (const [pattern, to] of POINTS) {
    const match = pattern.exec(name);
    if (match) return to(match[1]);
  }
  return undefined;
}

const families = fs
  .readdirSync(goldenPath("models"), { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map((entry) => entry.name);

/** Why a family cannot be tested yet; undefined when it can. */
function unsupported(family: string): string | undefined {
  const config = JSON.parse(fs.readFileSync(goldenPath("models", family, "config.json"), "utf8"));
  try {
    familyOf(config);
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

const CONFIGS = ["config.json", "config.legacy.json"];

/** Loads the family's checkpoint under one of its two configs. */
async function load(device: Device, family: string, config: string): Promise<Transformer> {
  using temp = temporaryFolder();
  const from = goldenPath("models", family);
  for (const file of fs.readdirSync(from)) {
    if (/^model.*\.(safetensors|json)$/.test(file))
      fs.symlinkSync(path.join(from, file), path.join(temp.path, file));
  }
  fs.copyFileSync(path.join(from, config), path.join(temp.path, "config.json"));
  return await loadTransformer(device, temp.path);
}

function inputIds(device: Device, expected: GoldenFile): Tensor {
  return device.tensor(expected.ints("input_ids"), expected.shape("input_ids"), "i32");
}

async function streamsAgree(model: Transformer, expected: GoldenFile): Promise<void> {
  const wanted = expected.names().flatMap((name) => {
    const point = pointOf(name);
    return point ? [{ name, point }] : [];
  });
  assert.ok(wanted.length > 4 * model.spec.nLayers, "the fixture has streams of every layer");
  const ids = inputIds(model.device, expected);
  const seen = model.device.scope(() => model.forward(ids, { capture: wanted.map((w) => w.point) }));
  for (const { name, point } of wanted) {
    assert.deepEqual([...seen.captured[point].shape], expected.shape(name), name);
    assertNear(await seen.captured[point].floats(), expected.floats(name), name);
  }
  assertNear(await seen.logits!.floats(), expected.floats("logits"), "logits");
  for (const t of [ids, seen.logits!, seen.final!, ...Object.values(seen.captured)]) t.dispose();
}

/** Mean next-token cross-entropy over all rows, as Hugging Face computes it with labels = ids. */
function nextTokenLoss(model: Transformer, ids: Int32Array, T: number): Tensor {
  const targets = Int32Array.from(ids, (_, i) => (i % T === T - 1 ? -1 : ids[i + 1]));
  const counted = ids.length - ids.length / T;
  return mul(sum(crossEntropies(model, { tokens: ids, targets }, T)), 1 / counted);
}

/** The gradient of a tensor of the checkpoint, put together from those of the parameters that lie in it. */
async function inFileLayout(
  model: Transformer,
  grads: readonly Tensor[],
  name: string,
): Promise<Float32Array> {
  const parts = model.slots.flatMap((slot, i) =>
    (slot.stored?.name ?? slot.name) === name ? [{ slot: slot as StoredSlot, tensor: grads[i] }] : [],
  );
  assert.ok(parts.length > 0, `${name} belongs to a parameter`);
  if (!parts[0].slot.stored) return await parts[0].tensor.floats();
  assert.equal(parts.length, parts[0].slot.stored.parts, `${name}: every part has a gradient`);
  const whole = model.device.scope(() => toStored(parts));
  return await whole.floats().finally(() => whole.dispose());
}

async function gradientsAgree(model: Transformer, expected: GoldenFile): Promise<void> {
  const [, T] = expected.shape("input_ids");
  const names = expected.names().filter((n) => n.startsWith("grad."));
  assert.ok(names.length >= 4);
  const { value, grads } = model.device.valueAndGrad(
    () => nextTokenLoss(model, expected.ints("input_ids"), T),
    model.parameters(),
  );
  assert.ok(
    grads.every((g) => g),
    "a gradient reaches every parameter",
  );
  assertNear([await value.item()], [expected.scalar("loss")], "loss", { absolute: 2e-5, relative: 0 });
  for (const name of names) {
    const want = expected.floats(name);
    const largest = want.reduce((m, g) => Math.max(m, Math.abs(g)), 0);
    const got = await inFileLayout(model, grads as Tensor[], name.slice("grad.".length));
    assertNear(got, want, name, { absolute: 2e-4 * largest, relative: 0 });
  }
  for (const t of [value, ...grads]) t?.dispose();
}

/** Greedy tokens by whole forward passes, each with one token more. */
async function greedyWithoutCache(model: Transformer, prompt: Int32Array, count: number): Promise<number[]> {
  const ids = [...prompt];
  for (let i = 0; i < count; i++) {
    const logits = model.device.scope(() => {
      const all = model.forward(model.device.tensor(ids, [1, ids.length], "i32")).logits!;
      return slice(all, [0, ids.length - 1, 0], [1, 1, model.spec.vocabSize]);
    });
    const row = await logits.floats();
    logits.dispose();
    ids.push(row.indexOf(Math.max(...row)));
  }
  return ids.slice(prompt.length);
}

async function greedyAgrees(model: Transformer, expected: GoldenFile): Promise<void> {
  const [, T] = expected.shape("input_ids");
  const ids = expected.ints("input_ids");
  const [first, second] = [ids.slice(0, T), ids.slice(T)];
  const want = [...expected.ints("greedy_ids")];
  const options = { maxNewTokens: want.length, stopTokens: [] };
  assert.deepEqual(await greedyWithoutCache(model, first, want.length), want, "without a cache");
  const [alone] = await generate(model, [first], options);
  assert.deepEqual([...alone.tokens], want, "alone");
  const padded = await generate(model, [second.slice(0, 5), first, second.slice(0, T - 2)], options);
  assert.deepEqual([...padded[1].tokens], want, "in a batch");
  const pushed = await generate(model, [[...second, ...second], first], options);
  assert.deepEqual([...pushed[1].tokens], want, "behind padding");
}

/** Everything that the fixture holds, of one way in which the same model is stored. */
async function agrees(device: Device, family: string, stored: Stored): Promise<void> {
  const expected = golden("models", family, "expected.safetensors");
  const model = await stored.load(device);
  try {
    await streamsAgree(model, expected);
    if (!stored.whole) return;
    await gradientsAgree(model, expected);
    await greedyAgrees(model, expected);
  } finally {
    model.dispose();
  }
}

interface Stored {
  readonly name: string;
  readonly load: (device: Device) => Promise<Transformer>;
  /** Gradients and greedy tokens as well as streams. */
  readonly whole: boolean;
}

/** A family's checkpoint under each of its configs, and the folders within that hold it in another layout. */
function storedAs(family: string): Stored[] {
  const configs = CONFIGS.map((name, i) => ({
    name,
    load: (device: Device) => load(device, family, name),
    whole: i === 0,
  }));
  const layouts = fs
    .readdirSync(goldenPath("models", family), { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => ({
      name,
      load: (device: Device) => loadTransformer(device, goldenPath("models", family, name)),
      whole: true,
    }));
  return [...configs, ...layouts];
}

for (const family of families) {
  const skip = unsupported(family);
  if (skip) test(`${family} agrees with transformers`, { skip });
  else {
    for (const backend of BACKENDS) {
      for (const stored of storedAs(family)) {
        test(`${family} with ${stored.name} agrees with transformers on ${backend}`, () =>
          withDevice(backend, (device) => agrees(device, family, stored)));
      }
    }
  }
}

test("at least one golden family is supported", () => {
  assert.ok(families.some((family) => !unsupported(family)));
});
