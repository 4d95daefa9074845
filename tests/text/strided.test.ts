/**
 * Overlapping windows: which tokens are context, which are targets, and that each is one once.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryTokens, StridedWindows, TokenPacker } from "../../src/text/index.ts";

const count = (n: number, from = 10) => Array.from({ length: n }, (_, i) => from + i);
const rows = (windows: StridedWindows) =>
  Array.from({ length: windows.windows }, (_, w) => {
    const { tokens, targets } = windows.at(w);
    return [[...tokens], [...targets]];
  });

test("windows of 4 by 2 without BOS: the first counts 4 targets, each further one 2, the last what is left", () => {
  const source = new MemoryTokens([count(8)]); // 10 … 17
  assert.deepEqual(rows(new StridedWindows(source, { context: 4, stride: 2 })), [
    [
      [10, 11, 12, 13],
      [11, 12, 13, 14],
    ],
    [
      [12, 13, 14, 15],
      [-1, -1, 15, 16],
    ],
    [
      [14, 15, 16, 0],
      [-1, -1, 17, -1],
    ],
  ]);
});

test("with BOS in front of every window the first token is a target too", () => {
  const source = new MemoryTokens([count(5)]);
  const windows = new StridedWindows(source, { context: 4, stride: 3, bos: 0, eos: 1 });
  // The stream is 0 10 11 12 13 14 1; BOS itself is never a target.
  assert.deepEqual(rows(windows), [
    [
      [0, 0, 10, 11],
      [-1, 10, 11, 12],
    ],
    [
      [0, 12, 13, 14],
      [-1, 13, 14, 1],
    ],
  ]);
  const plain = new StridedWindows(source, { context: 4, stride: 3, bos: 0, eos: 1, windowBos: false });
  assert.deepEqual(rows(plain), [
    [
      [0, 10, 11, 12],
      [10, 11, 12, 13],
    ],
    [
      [12, 13, 14, 0],
      [-1, 14, 1, -1],
    ],
  ]);
});

test("a stride of the whole window gives the packer's windows, and the rest of the text", () => {
  const source = new MemoryTokens([count(9), count(14, 40)]);
  for (const bos of [0, null]) {
    const packer = new TokenPacker(source, { context: 4, bos, eos: 1, shuffle: false });
    const strided = new StridedWindows(source, { context: 4, stride: 4, bos, eos: 1 });
    assert.ok(strided.windows === packer.windows || strided.windows === packer.windows + 1);
    for (let w = 0; w < packer.windows; w++) assert.deepEqual(strided.at(w), packer.at(w), `window ${w}`);
  }
});

test("whatever the lengths, every token is a target once, with enough before it", () => {
  for (let n = 1; n < 30; n++) {
    for (const [context, stride] of [
      [2, 1],
      [5, 1],
      [5, 3],
      [5, 5],
      [8, 7],
      [50, 9],
    ]) {
      for (const bos of [0, null]) {
        if (bos === null && n < 2) continue;
        const windows = new StridedWindows(new MemoryTokens([count(n)]), { context, stride, bos });
        const found: number[] = [];
        rows(windows).forEach(([, targets], w) => {
          targets.forEach((target, t) => {
            if (target < 0) return;
            found.push(target);
            assert.ok(
              w === 0 || t >= context - stride,
              `n=${n} T=${context} S=${stride}: target ${t} of window ${w}`,
            );
          });
        });
        assert.deepEqual(found, count(n).slice(bos === null ? 1 : 0), `n=${n} T=${context} S=${stride}`);
      }
    }
  }
});

test("a stride outside of the window, and a text of nothing, are refused", () => {
  const source = new MemoryTokens([count(8)]);
  assert.throws(
    () => new StridedWindows(source, { context: 4, stride: 5 }),
    /stride=5: .* from 1 to the window's 4/,
  );
  assert.throws(
    () => new StridedWindows(new MemoryTokens([[10]]), { context: 4, stride: 2 }),
    /no token to predict/,
  );
});
