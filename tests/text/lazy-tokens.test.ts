/**
 * Texts that are read as far as they are needed: the same tokens and windows, whoever asked first and for how much.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  type Document,
  firstDocuments,
  LazyTokens,
  loadTokenizer,
  MemoryTokens,
  type TextPart,
  type Tokenizer,
  TokenPacker,
  type TokenSource,
} from "../../src/text/index.ts";
import { inputError } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";

const PARTS = 6;
const DOCUMENTS = 10;
const textOf = (part: number, document: number): string =>
  `Part ${part} has a document ${document} ${"on the river ".repeat(1 + ((part + document) % 4))}`;

let tokenizer: Tokenizer;
const brook = async () => {
  tokenizer ??= await loadTokenizer("models/brook");
  return tokenizer;
};

/** Parts that say what was read of them; part `broken` fails behind its fourth document. */
function partsOf(opened: number[], broken: { part: number | undefined } = { part: undefined }): TextPart[] {
  return Array.from({ length: PARTS }, (_, part) => ({
    name: `${part}`,
    async *documents(): AsyncGenerator<Document> {
      opened.push(part);
      for (let d = 0; d < DOCUMENTS; d++) {
        if (part === broken.part && d === 4) throw inputError("the network is gone");
        yield { id: `${d}`, text: textOf(part, d) };
      }
    },
  }));
}

async function lazy(
  folder: string,
  parts: readonly TextPart[],
  { shuffled = 64, log }: { shuffled?: number; log?: (line: string) => void } = {},
): Promise<LazyTokens> {
  return new LazyTokens(parts, {
    tokenizer: await brook(),
    folder,
    identity: "test",
    shuffled,
    log,
    source: "test",
    empty: () => inputError("there is nothing"),
  });
}

async function whole(): Promise<MemoryTokens> {
  const encode = (await brook()).encode.bind(tokenizer);
  return new MemoryTokens(
    Array.from({ length: PARTS * DOCUMENTS }, (_, i) =>
      encode(textOf(Math.floor(i / DOCUMENTS), i % DOCUMENTS)),
    ),
  );
}

/** The ids that are there, and where their documents end. */
const contents = (source: TokenSource) => [[...source.read(0, source.tokens)], [...source.documentEnds]];

/** What is there is the beginning of the whole text. */
async function assertPrefix(source: TokenSource): Promise<void> {
  const all = await whole();
  const documents = source.documentEnds.length;
  assert.equal(source.tokens, all.documentEnds[documents - 1]);
  assert.deepEqual(contents(source), [
    [...all.read(0, source.tokens)],
    [...all.documentEnds.slice(0, documents)],
  ]);
}

test("only the parts that are needed are opened, and another process finds them tokenised", async () => {
  using temp = temporaryFolder();
  const opened: number[] = [];
  const first = await lazy(temp.path, partsOf(opened));
  assert.deepEqual([first.tokens, first.lazy.whole], [0, false]);
  const perPart = Math.ceil((await whole()).tokens / PARTS);
  await first.lazy.grow(perPart + 10);
  assert.ok(first.tokens >= perPart + 10 && first.tokens < 2 * perPart);
  assert.deepEqual(opened, [0, 1]);
  await assertPrefix(first);
  await first.lazy.grow(5); // there already
  assert.deepEqual(opened, [0, 1]);

  const again: number[] = [];
  const second = await lazy(temp.path, partsOf(again));
  await second.lazy.grow(first.tokens);
  assert.deepEqual(again, []);
  assert.deepEqual(contents(second), contents(first));
  await second.lazy.grow(first.tokens + 1);
  assert.deepEqual(again, [1], "it reads on in the part where the stretch ended");
  await assertPrefix(second);

  await first.lazy.grow(Number.POSITIVE_INFINITY);
  assert.ok(first.lazy.whole);
  assert.deepEqual(contents(first), contents(await whole()));
  assert.deepEqual(opened, [0, 1, 1, 2, 3, 4, 5], "what the other process read on was taken from it");
  first.close();
  second.close();
  const third = await lazy(temp.path, []);
  await third.lazy.grow(Number.POSITIVE_INFINITY);
  assert.ok(third.lazy.whole);
  assert.deepEqual(contents(third), contents(await whole()));
  third.close();
});

test("two at once that cut the text elsewhere do not mix their stretches", async () => {
  using temp = temporaryFolder();
  const sources = [await lazy(temp.path, partsOf([])), await lazy(temp.path, partsOf([]))];
  await Promise.all([sources[0].lazy.grow(40), sources[1].lazy.grow(90)]);
  await Promise.all([sources[0].lazy.grow(200), sources[1].lazy.grow(130)]);
  sources.push(await lazy(temp.path, partsOf([])));
  await Promise.all(sources.map(({ lazy }) => lazy.grow(300)));
  for (const source of sources) {
    await assertPrefix(source);
    await source.lazy.grow(Number.POSITIVE_INFINITY);
    assert.deepEqual(contents(source), contents(await whole()));
    source.close();
  }
});

test("a stretch that is damaged, or does not continue the one before, is made again", async () => {
  using temp = temporaryFolder();
  for (const spoil of [
    (file: string) => fs.truncateSync(file, fs.statSync(file).size - 1),
    (file: string) => fs.copyFileSync(join(temp.path, "00000.tokens"), file),
    (file: string) =>
      fs.writeFileSync(file, fs.readFileSync(file, "latin1").replace('"to":{', '"xx":{'), "latin1"),
  ]) {
    const source = await lazy(temp.path, partsOf([]));
    for (const tokens of [50, 100, 200]) await source.lazy.grow(tokens);
    source.close();
    spoil(join(temp.path, "00001.tokens"));
    const again = await lazy(temp.path, partsOf([]));
    await again.lazy.grow(Number.POSITIVE_INFINITY);
    assert.deepEqual(contents(again), contents(await whole()));
    again.close();
  }
});

test("what fails in the middle is read again from the last stretch", async () => {
  using temp = temporaryFolder();
  const broken: { part: number | undefined } = { part: 2 };
  const source = await lazy(temp.path, partsOf([], broken));
  await source.lazy.grow(60);
  const before = source.tokens;
  await assert.rejects(source.lazy.grow(Number.POSITIVE_INFINITY), /the network is gone/);
  assert.equal(source.tokens, before);
  assert.deepEqual(fs.readdirSync(temp.path), ["00000.tokens"]);
  broken.part = undefined;
  await source.lazy.grow(Number.POSITIVE_INFINITY);
  assert.deepEqual(contents(source), contents(await whole()));
  source.close();
});

test("how much is to be read is said where all of a large text is asked for", async () => {
  using temp = temporaryFolder();
  const said: string[] = [];
  const parts = partsOf([]).map((part) => ({ ...part, bytes: 50e6 }));
  const source = await lazy(temp.path, parts, { log: (line) => said.push(line) });
  await source.lazy.grow(10);
  assert.deepEqual(said, []);
  await source.lazy.grow(Number.POSITIVE_INFINITY);
  assert.deepEqual(said, ["test is read to its end: 6 files, 300 MB"]);
  source.close();
});

test("a text without a document is an error, in the same process and the next", async () => {
  using temp = temporaryFolder();
  for (let round = 0; round < 2; round++) {
    const empty: TextPart = { name: "empty", async *documents() {} };
    const source = await lazy(temp.path, [empty, empty]);
    await assert.rejects(source.lazy.grow(1), /there is nothing/);
    source.close();
  }
});

test("the first documents are the same, however much more of the text is there", async () => {
  using temp = temporaryFolder();
  const source = await lazy(temp.path, partsOf([]));
  const few = contents(await firstDocuments(source, 100));
  assert.ok(few[0].length >= 100 && few[0].length < 150);
  await source.lazy.grow(Number.POSITIVE_INFINITY);
  assert.deepEqual(contents(await firstDocuments(source, 100)), few);
  assert.deepEqual(contents(await firstDocuments(source, 1e9)), contents(await whole()));
  source.close();
});

const PACK = { context: 8, bos: 0, eos: 1, seed: 5 };

test("windows come in the same order, however much of the text is there when they are taken", async () => {
  using temp = temporaryFolder();
  const rows = (packer: TokenPacker, count: number) =>
    Array.from({ length: count }, () => [...packer.next(1).tokens].join());
  const source = await lazy(temp.path, partsOf([]));
  const packer = new TokenPacker(source, PACK);
  assert.equal(packer.windows, 0);
  assert.throws(() => packer.next(1), /reached before they are taken/);
  const stepwise: string[] = [];
  for (let w = 0; w < 20; w++) {
    await packer.reach(w + 1);
    stepwise.push(...rows(packer, 1));
  }
  assert.ok(!source.lazy.whole);
  await source.lazy.grow(Number.POSITIVE_INFINITY);
  const all = new TokenPacker(source, PACK);
  assert.deepEqual(rows(all, 20), stepwise);
  // Shuffled within 8 windows of 8 tokens: the first eight of the order are the first eight of the text.
  const inOrder = new TokenPacker(source, { ...PACK, shuffle: false });
  assert.deepEqual(stepwise.slice(0, 8).sort(), rows(inOrder, 8).sort());
  assert.notDeepEqual(stepwise.slice(0, 8), rows(new TokenPacker(source, { ...PACK, shuffle: false }), 8));
  assert.notDeepEqual(stepwise, rows(new TokenPacker(source, { ...PACK, seed: 6 }), 20));
  // Every window once, and another order in the second epoch.
  const rest = rows(all, all.windows - 20);
  const epoch = [...stepwise, ...rest];
  assert.deepEqual(
    [...epoch].sort(),
    rows(inOrder, all.windows - 8)
      .concat(stepwise.slice(0, 8))
      .sort(),
  );
  assert.deepEqual(all.state, { epoch: 0, index: all.windows });
  assert.notDeepEqual(rows(all, 8), stepwise.slice(0, 8));
  // A text shorter than what is shuffled together has the order of any other text.
  const large = await lazy(temp.path, partsOf([]), { shuffled: 1 << 20 });
  const lone = new TokenPacker(large, PACK);
  await lone.reach(1);
  assert.ok(large.lazy.whole);
  assert.deepEqual(rows(lone, lone.windows), rows(new TokenPacker(await whole(), PACK), lone.windows));
  source.close();
  large.close();
});

test("a packer restored behind what is there reads on, and in a second epoch has all of the text", async () => {
  using temp = temporaryFolder();
  const source = await lazy(temp.path, partsOf([]));
  const packer = new TokenPacker(source, PACK);
  await packer.reach(30);
  packer.next(30);
  const { state } = packer;
  const next = () => packer.next(3).tokens;
  await packer.reach(33);
  const expected = next();
  source.close();
  using other = temporaryFolder();
  const again = new TokenPacker(await lazy(other.path, partsOf([])), PACK);
  again.restore(state);
  await again.reach(33);
  assert.deepEqual(again.next(3).tokens, expected);
  again.restore({ epoch: 1, index: 2 });
  await again.reach(3);
  assert.equal(again.windows, new TokenPacker(await whole(), PACK).windows);
});

test("a lazy text that is too short for a window is refused when it has ended", async () => {
  using temp = temporaryFolder();
  const packer = new TokenPacker(await lazy(temp.path, partsOf([])), { ...PACK, context: 100_000 });
  await assert.rejects(
    packer.reach(1),
    /the text has \d+ tokens in 60 documents, too few for one window of 100000/,
  );
});
