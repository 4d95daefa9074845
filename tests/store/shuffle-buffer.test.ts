import assert from "node:assert/strict";
import * as path from "node:path";
import { test } from "node:test";
import { readSafetensorsSync, writeSafetensors } from "../../src/formats/index.ts";
import { ShuffleBuffer, type ShuffledState, type SourceBlock, shuffled } from "../../src/store/index.ts";
import { Rng } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";

const WIDTH = 2;

/** Row r is [r, -r]. */
function block(first: number, n: number): SourceBlock {
  const x = new Float32Array(n * WIDTH);
  for (let i = 0; i < n; i++) x.set([first + i, -(first + i)], i * WIDTH);
  return { x, rows: n };
}

async function* source(blocks: number, size: number, from = 0): AsyncGenerator<SourceBlock> {
  for (let b = from; b < blocks; b++) yield block(b * size, size);
}

function numbers({ x, rows }: SourceBlock): number[] {
  return Array.from({ length: rows }, (_, i) => {
    assert.equal(x[i * WIDTH + 1], -x[i * WIDTH]);
    return x[i * WIDTH];
  });
}

test("rows are pulled once each, in random order", () => {
  const buffer = new ShuffleBuffer({ width: WIDTH, capacity: 100, rng: new Rng(1) });
  assert.equal(buffer.push(block(0, 60).x), 60);
  assert.equal(buffer.push(block(60, 60).x), 40);
  assert.equal(buffer.push(block(60, 60).x, 40), 0);
  assert.equal(buffer.wantsRefill, false);
  const out = [...numbers({ x: buffer.pull(50), rows: 50 })];
  assert.equal(buffer.wantsRefill, true);
  out.push(...numbers({ x: buffer.pull(50), rows: 50 }));
  assert.equal(buffer.size, 0);
  assert.notDeepEqual(
    out,
    [...out].sort((a, b) => a - b),
  );
  assert.deepEqual(
    [...out].sort((a, b) => a - b),
    Array.from({ length: 100 }, (_, i) => i),
  );
  assert.throws(() => buffer.pull(1), /1 rows asked for, 0 are there/);
});

test("every row is equally likely to be pulled first", () => {
  const counts = new Array(8).fill(0);
  const rng = new Rng(2);
  for (let i = 0; i < 8000; i++) {
    const buffer = new ShuffleBuffer({ width: WIDTH, capacity: 8, rng });
    buffer.push(block(0, 8).x);
    counts[buffer.pull(1)[0]]++;
  }
  for (const c of counts) assert.ok(Math.abs(c - 1000) < 150, String(counts));
});

test("a stream hands out every row of its source once and mixes old with new", async () => {
  const stream = shuffled(source(50, 37), { batch: 40, capacity: 400, rng: new Rng(3) });
  const batches: number[][] = [];
  for await (const batch of stream) batches.push(numbers(batch));
  const all = batches.flat();
  assert.deepEqual(
    [...all].sort((a, b) => a - b),
    Array.from({ length: 50 * 37 }, (_, i) => i),
  );
  assert.equal(batches.at(-1)!.length, (50 * 37) % 40);
  assert.ok(
    batches
      .slice(0, 5)
      .flat()
      .every((r) => r < 400),
  );
  const later = batches[12];
  assert.ok(Math.max(...later) - Math.min(...later) > 350);
  assert.equal(stream.state().blocks, 50);
  assert.equal(stream.state().rows, 50 * 37);
});

test("the buffer is refilled when half of it is gone, not before", async () => {
  let taken = 0;
  async function* counting(): AsyncGenerator<SourceBlock> {
    for (;;) yield block(100 * taken++, 100);
  }
  const stream = shuffled(counting(), { batch: 100, capacity: 1000, rng: new Rng(4) });
  const after: number[] = [];
  for (let i = 0; i < 12; i++) {
    await stream.next();
    after.push(taken);
  }
  assert.deepEqual(after, [10, 10, 10, 10, 10, 15, 15, 15, 15, 15, 20, 20]);
});

test("a stream saved to a file and restored gives the same batches as one that went on", async () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "buffer.safetensors");
  const options = { batch: 30, capacity: 200 };
  const plain: number[][] = [];
  for await (const b of shuffled(source(40, 23), { ...options, rng: new Rng(5) })) plain.push(numbers(b));
  for (const stop of [0, 1, 5, 17, plain.length - 1]) {
    const first = shuffled(source(40, 23), { ...options, rng: new Rng(5) });
    for (let i = 0; i < stop; i++) assert.deepEqual(numbers((await first.next())!), plain[i]);
    if (stop === 0) continue;
    const state = JSON.parse(JSON.stringify(first.state())) as ShuffledState;
    await writeSafetensors(file, first.tensors());
    const second = shuffled(source(40, 23, state.blocks), {
      ...options,
      rng: new Rng(999),
      resume: { state, tensors: readSafetensorsSync(file) },
    });
    const rest: number[][] = [];
    for await (const b of second) rest.push(numbers(b));
    assert.deepEqual(rest, plain.slice(stop));
    assert.equal(second.state().rows, 40 * 23);
  }
});

test("a small source, an empty source and a last short batch are handled", async () => {
  const few: number[] = [];
  for await (const b of shuffled(source(1, 7), { batch: 4, capacity: 100, rng: new Rng(1) }))
    few.push(b.rows);
  assert.deepEqual(few, [4, 3]);
  const whole: number[] = [];
  const options = { batch: 4, capacity: 100, rng: new Rng(1), keepLast: false };
  for await (const b of shuffled(source(1, 7), options)) whole.push(b.rows);
  assert.deepEqual(whole, [4]);
  for await (const _ of shuffled(source(0, 7), { batch: 4, rng: new Rng(1) }))
    assert.fail("a batch of nothing");
  async function* gaps(): AsyncGenerator<SourceBlock> {
    yield { x: new Float32Array(0), rows: 0 };
    yield block(0, 4);
  }
  assert.equal((await shuffled(gaps(), { batch: 4, capacity: 8, rng: new Rng(1) }).next())!.rows, 4);
});

test("a batch must fit into half the buffer", () => {
  assert.throws(
    () => shuffled(source(1, 1), { batch: 60, capacity: 100, rng: new Rng(1) }),
    /batch=60 must be between 1 and half the capacity \(50\)/,
  );
  assert.throws(() => new ShuffleBuffer({ width: 0, rng: new Rng(1) }), /width=0/);
});

test("stopping early ends the source", async () => {
  let ended = false;
  async function* watched(): AsyncGenerator<SourceBlock> {
    try {
      for (;;) yield block(0, 10);
    } finally {
      ended = true;
    }
  }
  for await (const _ of shuffled(watched(), { batch: 5, capacity: 50, rng: new Rng(1) })) break;
  assert.ok(ended);
});

test("an error of the source reaches the reader", async () => {
  async function* broken(): AsyncGenerator<SourceBlock> {
    yield block(0, 3);
    throw new Error("the model is gone");
  }
  await assert.rejects(
    shuffled(broken(), { batch: 2, capacity: 10, rng: new Rng(1) }).next(),
    /the model is gone/,
  );
});

test("a source that gives blocks without rows for ever stops when the signal is raised", {
  timeout: 5000,
}, async () => {
  const stop = new AbortController();
  async function* barren(): AsyncGenerator<SourceBlock> {
    for (let i = 0; ; i++) {
      if (i === 3) stop.abort();
      yield { x: new Float32Array(0), rows: 0 };
    }
  }
  const options = { batch: 2, capacity: 10, rng: new Rng(1), signal: stop.signal };
  const stream = shuffled(barren(), options);
  assert.equal((await stream.next())?.rows, 0);
  assert.equal(stream.state().blocks, 4);
  assert.equal(stream.state().refilling, true);
});

test("when the source fails, the state is that before the failed block and continues to the same batches", async () => {
  const options = { batch: 5, capacity: 20 };
  const plain: number[][] = [];
  for await (const b of shuffled(source(8, 6), { ...options, rng: new Rng(6) })) plain.push(numbers(b));
  async function* failing(): AsyncGenerator<SourceBlock> {
    yield* source(5, 6);
    throw new Error("bad block");
  }
  const first = shuffled(failing(), { ...options, rng: new Rng(6) });
  const got: number[][] = [];
  await assert.rejects(async () => {
    for (let b = await first.next(); b; b = await first.next()) got.push(numbers(b));
  }, /bad block/);
  const resume = { state: structuredClone(first.state()), tensors: first.tensors() };
  assert.equal(resume.state.blocks, 5);
  for await (const b of shuffled(source(8, 6, 5), { ...options, rng: new Rng(0), resume }))
    got.push(numbers(b));
  assert.deepEqual(got, plain);
});
