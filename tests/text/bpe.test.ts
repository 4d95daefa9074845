import assert from "node:assert/strict";
import { link, mkdtemp, readdir, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { byteSymbols, splitPattern, tokenBytes, wordRegExp } from "../../src/text/byte-level.ts";
import {
  corpusDocuments,
  loadTokenizer,
  saveBpe,
  type Tokenizer,
  trainBpe,
  WordCounter,
} from "../../src/text/index.ts";

const mixed = [
  "The quick brown fox, it's 1984's best—don't THEY'LL say? I'm  O'Neill",
  "Мама мыла раму; «Преступление и наказание» — 2-е изд. ё й́",
  "你好，世界。人人生而自由，在尊严和权利上一律平等。",
  "function f<T>(a: number[]): T {\n\treturn a?.map((x) => x ** 2) as T;\n}\r\n\r\n",
  "👩‍👩‍👧‍👦 🏳️‍🌈 é e\u0301 नमस्ते ไทย عربي",
  "   \t\n\n   \n spaces   \u00a0\u3000\u2028x\u0085y\ufeffz  ",
  "\u0000\u0001\u001f\u007f\u200b\u00ad ½ ² Ⅷ ٣",
  "<|bos|>hello<|eos|> <|pad|><|bos|",
  "\ud800 lone \udc00 surrogates \ud83d",
  `${"a".repeat(500)} ${"na".repeat(300)}${" ".repeat(200)}x${"\n".repeat(100)}`,
  "",
];

/** Lone surrogates cannot be written in UTF-8. */
const wellFormed = (text: string): string => new TextDecoder().decode(new TextEncoder().encode(text));

let cached: Promise<string> | undefined;
/** Folder of a small tokenizer trained on Moby-Dick and some Russian. */
function smallTokenizer(): Promise<string> {
  cached ??= (async () => {
    const counter = new WordCounter();
    for await (const { text } of corpusDocuments("moby-dick")) counter.add(text);
    for (const text of mixed) for (let i = 0; i < 20; i++) counter.add(text);
    const folder = await mkdtemp(join(tmpdir(), "sluice-bpe-"));
    await saveBpe(trainBpe(counter.counts, { vocabSize: 1500 }), folder, 256);
    return folder;
  })();
  return cached;
}

test("merges follow the counts, ties go to lower ids", () => {
  const counter = new WordCounter();
  counter.add("abab abab abab abc"); // words: abab, " abab" twice, " abc"
  const bpe = trainBpe(counter.counts, { vocabSize: 3 + 256 + 3 });
  assert.deepEqual(bpe.merges, [
    ["a", "b"],
    ["Ġ", "ab"],
    ["Ġab", "ab"],
  ]);
  assert.deepEqual(bpe.vocab.slice(0, 3), ["<|bos|>", "<|eos|>", "<|pad|>"]);
  assert.equal(bpe.vocab[259], "ab");
});

test("incremental counts give the merges of counting anew each time", () => {
  const words = new Map<string, number>();
  let seed = 3;
  for (let i = 0; i < 120; i++) {
    let word = "";
    for (let k = 0; k < 9; k++) {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      word += "aab"[seed % 3];
    }
    words.set(word, 1 + (seed % 5));
  }
  const bpe = trainBpe(words, { vocabSize: 256 + 40, specialTokens: [] });
  const sequences = [...words].map(([word, count]) => ({ symbols: word.split(""), count }));
  const ids = new Map<string, number>(byteSymbols.map((symbol, byte) => [symbol, byte]));
  for (const [index, merge] of bpe.merges.entries()) {
    const counts = new Map<string, number>();
    for (const { symbols, count } of sequences) {
      for (let i = 0; i + 1 < symbols.length; i++) {
        const pair = `${symbols[i]} ${symbols[i + 1]}`;
        counts.set(pair, (counts.get(pair) ?? 0) + count);
      }
    }
    const order = (pair: string) => pair.split(" ").map((symbol) => ids.get(symbol)!);
    const best = [...counts].sort(
      (a, b) => b[1] - a[1] || order(a[0])[0] - order(b[0])[0] || order(a[0])[1] - order(b[0])[1],
    )[0][0];
    assert.equal(merge.join(" "), best, `merge ${index}`);
    const [left, right] = merge;
    ids.set(left + right, 256 + index);
    for (const sequence of sequences) {
      const merged: string[] = [];
      for (let i = 0; i < sequence.symbols.length; i++) {
        const here = sequence.symbols[i] === left && sequence.symbols[i + 1] === right;
        merged.push(here ? left + right : sequence.symbols[i]);
        if (here) i++;
      }
      sequence.symbols = merged;
    }
  }
});

test("training twice gives the same vocabulary, and impossible sizes are refused", () => {
  const train = () => {
    const counter = new WordCounter();
    for (const text of mixed) counter.add(text);
    return trainBpe(counter.counts, { vocabSize: 400 });
  };
  assert.deepEqual(train(), train());
  assert.throws(() => trainBpe(new Map([["a", 1]]), { vocabSize: 100 }), /vocabSize=100 is too small/);
  assert.throws(() => trainBpe(new Map(), { vocabSize: 400 }), /no text to train on/);
});

test("the word pattern covers every character, digits one by one", () => {
  const words = wordRegExp(splitPattern);
  assert.deepEqual("I'll pay $12, ok?\n\n  Да!".match(words), [
    "I",
    "'ll",
    " pay",
    " $",
    "1",
    "2",
    ",",
    " ok",
    "?\n\n",
    " ",
    " Да",
    "!",
  ]);
  for (const text of mixed) assert.equal((text.match(words) ?? []).join(""), text);
});

test("every byte has one symbol", () => {
  assert.equal(new Set(byteSymbols).size, 256);
  assert.equal(byteSymbols[0x20], "Ġ");
  assert.equal(byteSymbols[0x41], "A");
  assert.deepEqual(
    tokenBytes("Ġé"),
    undefined === tokenBytes("é") ? undefined : new Uint8Array([0x20, 0xe9]),
  );
});

async function bothTokenizers(): Promise<{ fast: Tokenizer; reference: Tokenizer }> {
  const folder = await smallTokenizer();
  const [fast, reference] = await Promise.all([
    loadTokenizer(folder),
    loadTokenizer(folder, { fast: false }),
  ]);
  assert.ok(fast.fast);
  assert.ok(!reference.fast);
  return { fast, reference };
}

test("the fast encoder gives the reference's ids and every text comes back", async () => {
  const { fast, reference } = await bothTokenizers();
  for (const text of mixed) {
    const ids = fast.encode(text);
    assert.deepEqual([...ids], [...reference.encode(text)], JSON.stringify(text.slice(0, 60)));
    assert.equal(fast.decode(ids), wellFormed(text));
    assert.equal(fast.pieces(ids).join(""), wellFormed(text));
  }
});

test("the fast encoder agrees with the reference on random strings", async () => {
  const { fast, reference } = await bothTokenizers();
  const alphabet = [
    "a",
    "b",
    "the",
    "'s",
    "'LL",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "1",
    "23",
    "é",
    "\u0301",
    "мы",
    "世",
    "😀",
    "\ud83d",
    "\udc00",
    "<|eos|>",
    "<|",
    "\u0000",
    "\u0085",
    "\ufeff",
    "_",
    "--",
    "(",
    "\u00a0",
  ];
  let seed = 11;
  for (let round = 0; round < 400; round++) {
    let text = "";
    for (let k = 0; k < 25; k++) {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      text += alphabet[(seed >>> 8) % alphabet.length];
    }
    assert.deepEqual([...fast.encode(text)], [...reference.encode(text)], JSON.stringify(text));
  }
});

test("special tokens in text can be read as text, and BOS can be put in front", async () => {
  const { fast } = await bothTokenizers();
  assert.deepEqual([fast.bosId, fast.eosId, fast.padId], [0, 1, 2]);
  assert.deepEqual([...fast.encode("<|eos|>")], [1]);
  assert.ok(fast.encode("<|eos|>", { plain: true }).length > 1);
  assert.equal(fast.encode("a", { bos: true })[0], 0);
  assert.equal(fast.decode([0, ...fast.encode("hi"), 1], { skipSpecial: true }), "hi");
});

test("tokens show as text, or as bytes when they are part of a character", async () => {
  const { fast } = await bothTokenizers();
  assert.equal(fast.tokenText(fast.idOf("Ġthe")!), " the");
  assert.equal(fast.tokenText(3 + 0xe2), "<E2>");
  assert.equal(fast.tokenText(0), "<|bos|>");
  assert.equal(fast.decode([]), "");
  assert.deepEqual(fast.pieces([]), []);
  assert.throws(() => fast.decode([fast.vocabSize]), /token id 1500 is not in the vocabulary of 1500 tokens/);
});

test("a missing or broken tokenizer is named", async () => {
  const folder = await mkdtemp(join(tmpdir(), "sluice-bpe-"));
  await assert.rejects(loadTokenizer(folder), /tokenizer\.json/);
  await writeFile(join(folder, "tokenizer.json"), "{");
  await assert.rejects(loadTokenizer(folder), /tokenizer\.json/);
});

test("a tokenizer's files take the place of older ones whole", async () => {
  const folder = await mkdtemp(join(tmpdir(), "sluice-bpe-"));
  const counter = new WordCounter();
  counter.add("one two three");
  const names = ["tokenizer.json", "tokenizer_config.json"];
  for (const name of names) {
    await writeFile(join(folder, name), "old");
    await link(join(folder, name), join(folder, `${name}.reader`)); // still open elsewhere
  }
  await saveBpe(trainBpe(counter.counts, { vocabSize: 259 }), folder);
  for (const name of names) assert.equal(await readFile(join(folder, `${name}.reader`), "utf8"), "old");
  assert.equal((await loadTokenizer(folder)).vocabSize, 259);
  assert.equal((await readdir(folder)).length, 4);
});
