/**
 * Tokenizers that are not byte-level, and old ones that do not name their special tokens.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { loadTokenizer } from "../../src/text/index.ts";
import { temporaryFolder } from "../temporary.ts";

const SPECIAL = ["<unk>", "<s>", "</s>"];

/** As Llama 2 and Mistral have it: `▁` for blanks, one in front of the text, bytes for what has no token. */
function sentencePiece(): Record<string, unknown> {
  const bytes = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`);
  const tokens = [...SPECIAL, ...bytes, ..."▁ t h e r i v ▁t ▁th ▁the ▁r ▁ri".split(" ")];
  return {
    added_tokens: SPECIAL.map((content, id) => ({
      id,
      content,
      special: true,
      lstrip: false,
      rstrip: false,
      single_word: false,
      normalized: false,
    })),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      unk_token: "<unk>",
      fuse_unk: true,
      byte_fallback: true,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: ["▁ t", "▁t h", "▁th e", "▁ r", "▁r i"],
    },
  };
}

function write(folder: string, files: Readonly<Record<string, unknown>>): string {
  for (const [name, content] of Object.entries(files))
    fs.writeFileSync(join(folder, name), JSON.stringify(content));
  return folder;
}

test("the bytes of SentencePiece tokens are those of their text, blanks and single bytes too", async () => {
  using temp = temporaryFolder();
  const tokenizer = await loadTokenizer(write(temp.path, { "tokenizer.json": sentencePiece() }));
  const ids = tokenizer.encode("the river é");
  const texts = [...ids].map((id) => tokenizer.tokenText(id));
  assert.deepEqual(texts, ["▁the", "▁ri", "v", "e", "r", "▁", "<0xC3>", "<0xA9>"]);
  assert.deepEqual(
    [...ids].map((id) => tokenizer.textBytes(id)),
    [4, 3, 1, 1, 1, 1, 1, 1],
  );
  assert.equal(tokenizer.textBytes(tokenizer.idOf("</s>")!), 0);
});

test("names of special tokens stay text where they are plain, whatever the kind of tokenizer", async () => {
  using temp = temporaryFolder();
  const tokenizer = await loadTokenizer(write(temp.path, { "tokenizer.json": sentencePiece() }));
  const eos = tokenizer.idOf("</s>")!;
  assert.ok([...tokenizer.encode("the</s>the")].includes(eos));
  const plain = tokenizer.encode("the</s>the", { plain: true });
  assert.ok(!plain.includes(eos));
  assert.equal(tokenizer.decode(plain), "the</s>the");
  assert.deepEqual(tokenizer.encode("the river", { plain: true }), tokenizer.encode("the river"));
});

test("special tokens are named by tokenizer_config.json, else special_tokens_map.json, else the model's config", async () => {
  const ids = async (files: Readonly<Record<string, unknown>>) => {
    using temp = temporaryFolder();
    const { bosId, eosId } = await loadTokenizer(
      write(temp.path, { "tokenizer.json": sentencePiece(), ...files }),
    );
    return [bosId, eosId];
  };
  const config = { bos_token_id: 1, eos_token_id: 2 };
  assert.deepEqual(await ids({}), [undefined, undefined]);
  // GPT-2's says nothing but this.
  assert.deepEqual(
    await ids({ "tokenizer_config.json": { model_max_length: 1024 }, "config.json": config }),
    [1, 2],
  );
  // Qwen's says that there is none.
  assert.deepEqual(
    await ids({
      "tokenizer_config.json": { bos_token: null, eos_token: "</s>" },
      "config.json": { ...config, eos_token_id: 0 },
    }),
    [undefined, 2],
  );
  assert.deepEqual(
    await ids({
      "special_tokens_map.json": { bos_token: { content: "<s>" }, eos_token: "</s>" },
      "tokenizer_config.json": {},
    }),
    [1, 2],
  );
  assert.deepEqual(await ids({ "config.json": { bos_token_id: 9999, eos_token_id: [1, 2] } }), [
    undefined,
    undefined,
  ]);
  await assert.rejects(
    ids({ "special_tokens_map.json": 3 }),
    /special_tokens_map\.json: an object was expected/,
  );
});
