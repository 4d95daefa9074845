/**
 * Chat templates written by hand: what they render, which ids that is, and what they refuse.
 */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { loadTokenizer, saveBpe, Tokenizer, trainBpe, WordCounter } from "../../src/text/index.ts";
import { temporaryFolder } from "../temporary.ts";

const CHATML =
  "{%- if not messages[0].role == 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}" +
  "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}" +
  "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const LLAMA =
  "{{ bos_token }}{% for m in messages %}" +
  "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate user/assistant') }}{% endif %}" +
  "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}";

/** A tokenizer of few words, with two tokens more. */
async function tokenizerWith(config: Record<string, unknown>, folder: string): Promise<Tokenizer> {
  const counter = new WordCounter();
  counter.add("the river opens and the sluice closes");
  await saveBpe(trainBpe(counter.counts, { vocabSize: 270 }), folder);
  const json = JSON.parse(readFileSync(join(folder, "tokenizer.json"), "utf8"));
  const like = json.added_tokens[0];
  for (const content of ["<|im_start|>", "<|im_end|>"]) {
    json.added_tokens.push({ ...like, id: Object.keys(json.model.vocab).length, content });
    json.model.vocab[content] = Object.keys(json.model.vocab).length;
  }
  return new Tokenizer(JSON.stringify(json), {
    bos_token: "<|bos|>",
    eos_token: { content: "<|eos|>" },
    ...config,
  });
}

const user = (content: string) => ({ role: "user", content });
const assistant = (content: string) => ({ role: "assistant", content });

test("ChatML: a default system message, turns, and the beginning of the answer", async () => {
  using temp = temporaryFolder();
  const tokenizer = await tokenizerWith({ chat_template: CHATML }, temp.path);
  const expected =
    "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
  assert.equal(tokenizer.applyChatTemplate([user(" Hi ")], { addGenerationPrompt: true }), expected);
  assert.equal(
    tokenizer.applyChatTemplate([{ role: "system", content: "S" }, user("Hi"), assistant("Ho")]),
    "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n",
  );
});

test("special tokens of the template become their ids", async () => {
  using temp = temporaryFolder();
  const tokenizer = await tokenizerWith({ chat_template: CHATML }, temp.path);
  const [start, end] = ["<|im_start|>", "<|im_end|>"].map((t) => tokenizer.idOf(t)!);
  const ids = [...tokenizer.encodeChat([user("the river")], { addGenerationPrompt: true })];
  assert.equal(ids.filter((id) => id === start).length, 3);
  assert.equal(ids.filter((id) => id === end).length, 2);
  assert.equal(ids[0], start);
  assert.ok(!ids.includes(tokenizer.bosId!), "this template writes no BOS");
});

test("BOS and EOS come from the tokenizer's config; the template's own exception is the error", async () => {
  using temp = temporaryFolder();
  const tokenizer = await tokenizerWith({ chat_template: LLAMA }, temp.path);
  const chat = [user("A"), assistant("B"), user("C")];
  assert.equal(tokenizer.applyChatTemplate(chat), "<|bos|>[INST] A [/INST] B<|eos|>[INST] C [/INST]");
  const ids = tokenizer.encodeChat(chat);
  assert.deepEqual([ids[0], ids.filter((id) => id === tokenizer.bosId).length], [tokenizer.bosId, 1]);
  assert.throws(
    () => tokenizer.applyChatTemplate([{ role: "system", content: "S" }, user("A")]),
    /chat template does not take these messages \(system, user\): roles must alternate user\/assistant/,
  );
});

test("several templates: the one for tools is taken when there are tools", async () => {
  using temp = temporaryFolder();
  const tokenizer = await tokenizerWith(
    {
      chat_template: [
        { name: "default", template: "plain {{ messages[0].content }}{% if tools %} tools{% endif %}" },
        { name: "tool_use", template: "{{ tools[0].name }} for {{ messages[0].content }}" },
      ],
    },
    temp.path,
  );
  assert.equal(tokenizer.applyChatTemplate([user("A")]), "plain A");
  assert.equal(
    tokenizer.applyChatTemplate([user("A")], { tools: [{ name: "open_gate" }] }),
    "open_gate for A",
  );
});

test("no template, no messages, and templates that do not work are clear errors", async () => {
  using temp = temporaryFolder();
  const none = await tokenizerWith({}, temp.path);
  assert.equal(none.canChat, false);
  assert.throws(() => none.applyChatTemplate([user("A")]), /has no chat template .*only continues text/);
  const broken = await tokenizerWith({ chat_template: "{% for m in %}" }, temp.path);
  assert.throws(
    () => broken.applyChatTemplate([user("A")]),
    /chat template is no Jinja that can be read here/,
  );
  const failing = await tokenizerWith({ chat_template: "{{ messages | nosuchfilter }}" }, temp.path);
  assert.throws(
    () => failing.applyChatTemplate([user("A")]),
    /chat template does not take these messages \(user\)/,
  );
  assert.throws(() => failing.applyChatTemplate([]), /no messages/);
});

test("chat_template.jinja beside the tokenizer wins over its config", async () => {
  using temp = temporaryFolder();
  await tokenizerWith({}, temp.path);
  const config = join(temp.path, "tokenizer_config.json");
  const old = JSON.parse(readFileSync(config, "utf8"));
  writeFileSync(config, JSON.stringify({ ...old, chat_template: "old {{ messages[0].content }}" }));
  assert.equal((await loadTokenizer(temp.path)).applyChatTemplate([user("A")]), "old A");
  writeFileSync(join(temp.path, "chat_template.jinja"), "{{ bos_token }}new {{ messages[0].content }}");
  assert.equal((await loadTokenizer(temp.path)).applyChatTemplate([user("A")]), "<|bos|>new A");
});
