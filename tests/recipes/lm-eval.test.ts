/**
 * Perplexity with overlapping windows: the number is that of a loop over tokens, one forward pass each.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { evaluateLm, type LmEvalOptions } from "../../src/recipes/lm.ts";
import { createDevice } from "../../src/tensor/index.ts";
import { temporaryFolder } from "../temporary.ts";
import { openTiny, saveTinyModel } from "./tiny.ts";

const T = 8;

test("with a stride every token counts once, predicted from its window as by hand", async () => {
  using temp = temporaryFolder();
  const device = await createDevice({ backend: "ref" });
  const { lm, tokens } = await openTiny(device, await saveTinyModel(temp.path), 3);
  const evaluate = (options: Partial<LmEvalOptions>) =>
    evaluateLm(lm, { texts: { t: tokens }, context: T, ...options });
  const stream: number[] = [];
  let start = 0;
  for (const end of tokens.documentEnds) {
    stream.push(lm.tokenizer.bosId!, ...tokens.read(start, end - start), lm.tokenizer.eosId!);
    start = end;
  }
  /** −ln p of the token that follows `before`. */
  const surprise = async (before: readonly number[], next: number): Promise<number> => {
    const { logits } = lm.model.forward(device.tensor(Int32Array.from(before), [1, before.length], "i32"));
    const all = await logits!.floats();
    const last = [...all.slice(all.length - all.length / before.length)];
    const most = Math.max(...last);
    return most + Math.log(last.reduce((sum, v) => sum + Math.exp(v - most), 0)) - last[next];
  };
  for (const [stride, windowBos] of [
    [3, true],
    [3, false],
    [1, true],
  ] as const) {
    let nats = 0;
    let counted = 0;
    for (let i = windowBos ? 0 : 1; i < stream.length; i++) {
      if (stream[i] === lm.tokenizer.bosId) continue;
      const target = windowBos ? i : i - 1; // its number among the targets
      const window = Math.max(0, Math.ceil((target - T + 1) / stride));
      const before = stream.slice(window * stride, i);
      nats += await surprise(windowBos ? [lm.tokenizer.bosId!, ...before] : before, stream[i]);
      counted++;
    }
    const found = await evaluate({ stride, windowBos });
    assert.equal(found.tokens, counted);
    assert.deepEqual([found.context, found.stride, found.window_bos], [T, stride, windowBos]);
    assert.ok(Math.abs(found.loss - nats / counted) < 1e-4, `${found.loss}, by hand ${nats / counted}`);
    assert.ok(Math.abs(found.perplexity - Math.exp(found.loss)) < 1e-9);
  }
  const beside = await evaluate({});
  const whole = await evaluate({ stride: T });
  assert.equal(beside.stride, null);
  assert.ok(whole.tokens >= beside.tokens && whole.tokens - beside.tokens < T, "the last stretch counts too");
  await assert.rejects(evaluate({ stride: T + 1 }), /stride=9: .* from 1 to the window's 8/);
  lm.model.dispose();
  device.close();
});
