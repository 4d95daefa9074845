/**
 * Runs over a text that is read as far as it is needed: the numbers are those of the whole text, and what fails costs nothing.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { createTransformer, LM_TRAIN_DEFAULTS, trainLm } from "../../src/models/index.ts";
import { liveActivations } from "../../src/recipes/live-activations.ts";
import { evaluateLm } from "../../src/recipes/lm.ts";
import { createDevice } from "../../src/tensor/index.ts";
import { LazyTokens, type TextPart, type Tokenizer, TokenPacker } from "../../src/text/index.ts";
import { inputError, Rng } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";
import { openTiny, saveTinyModel, sentences, TINY } from "./tiny.ts";

/** Four parts; `opened` says which were asked for, and the part `state.broken` fails. */
function open(
  folder: string,
  tokenizer: Tokenizer,
  state: { broken?: number; opened: number[] },
): LazyTokens {
  const parts = Array.from(
    { length: 4 },
    (_, part): TextPart => ({
      name: `part ${part}`,
      async *documents() {
        state.opened.push(part);
        if (state.broken === part) throw inputError(`part ${part} cannot be had`);
        for (const text of sentences(40, part + 1)) yield { id: text, text };
      },
    }),
  );
  return new LazyTokens(parts, {
    tokenizer,
    folder,
    identity: "four parts",
    shuffled: 256,
    source: "four parts",
    empty: () => inputError("no text"),
  });
}

const PACK = { context: 16, bos: 0, eos: 1, seed: 2 };

test("training reads on as it goes; what fails then leaves a checkpoint, from which it ends with the same bits", async () => {
  using temp = temporaryFolder();
  const device = await createDevice({ backend: "ref" });
  const { lm } = await openTiny(device, await saveTinyModel(join(temp.path, "tiny")));
  const config = {
    ...LM_TRAIN_DEFAULTS,
    tokens: 2048,
    batch: 8,
    micro: 8,
    warmup: 1,
    checkpointEverySteps: 1000,
  };
  const train = async (dir: string, tokens: LazyTokens) => {
    const model = createTransformer(device, TINY, { rng: new Rng(1) });
    try {
      const packer = new TokenPacker(tokens, PACK);
      await trainLm(model, { config, packer, dir, identity: { text: tokens.lazy.identity } });
    } finally {
      model.dispose();
      tokens.close();
    }
    return fs.readFileSync(join(dir, "state.safetensors"));
  };
  const straight = { opened: [] as number[] };
  const expected = await train(
    join(temp.path, "a"),
    open(join(temp.path, "tokens-a"), lm.tokenizer, straight),
  );
  assert.deepEqual(straight.opened, [0, 1], "the others are not needed");

  const dir = join(temp.path, "b");
  const tokens = () => open(join(temp.path, "tokens-b"), lm.tokenizer, lost);
  const lost: { broken?: number; opened: number[] } = { broken: 1, opened: [] };
  await assert.rejects(train(dir, tokens()), /part 1 cannot be had/);
  assert.ok(fs.existsSync(join(dir, "state.safetensors")), "the steps before are kept");
  lost.broken = undefined;
  assert.ok((await train(dir, tokens())).equals(expected));
  device.close();
});

test("activations and evaluations are those of the whole text", async () => {
  using temp = temporaryFolder();
  const device = await createDevice({ backend: "ref" });
  const { lm } = await openTiny(device, await saveTinyModel(join(temp.path, "tiny")));
  const { model, tokenizer } = lm;
  const state = { opened: [] as number[] };
  const lazy = open(join(temp.path, "tokens"), tokenizer, state);
  const rowsOf = async (packer: TokenPacker, options: { until?: number; rows?: number }) => {
    const rows: number[] = [];
    const live = liveActivations({
      model,
      packer,
      hooks: ["blocks.0.hook_resid_pre"],
      windows: 4,
      ...options,
    });
    for await (const block of live) rows.push(...block.activations["blocks.0.hook_resid_pre"]);
    return rows;
  };
  const some = await rowsOf(new TokenPacker(lazy, PACK), { until: 30 });
  assert.ok(!lazy.lazy.whole);
  assert.deepEqual(state.opened, [0]);
  await lazy.lazy.grow(Number.POSITIVE_INFINITY);
  assert.deepEqual(await rowsOf(new TokenPacker(lazy, PACK), { until: 30 }), some);

  const all = await rowsOf(new TokenPacker(lazy, PACK), {});
  using other = temporaryFolder();
  const again = open(other.path, tokenizer, state);
  assert.deepEqual(
    await rowsOf(new TokenPacker(again, PACK), {}),
    all,
    "to the end of the text, and no further",
  );
  const score = await evaluateLm(lm, { texts: { t: lazy }, context: 16 });
  using third = temporaryFolder();
  const unread = open(third.path, tokenizer, state);
  assert.deepEqual(await evaluateLm(lm, { texts: { t: unread }, context: 16 }), score);
  for (const tokens of [lazy, again, unread]) tokens.close();
  model.dispose();
  device.close();
});
