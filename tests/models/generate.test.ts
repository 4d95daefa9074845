import assert from "node:assert/strict";
import { join } from "node:path";
import { before, test } from "node:test";
import {
  addVector,
  atPositions,
  type Edit,
  type Generation,
  generate,
  type ModelSpec,
  TextStream,
  type TokenEvent,
  type Transformer,
} from "../../src/models/index.ts";
import type { Device } from "../../src/tensor/index.ts";
import { loadTokenizer, type Tokenizer } from "../../src/text/index.ts";
import { packageRoot } from "../golden.ts";
import { BACKENDS, someIds, tinyModel, tinySpec, withDevice } from "./helpers.ts";

let brook: Tokenizer;
before(async () => {
  brook = await loadTokenizer(join(packageRoot(), "models", "brook"));
});

const ids = (g: Generation) => [...g.tokens];
const sampled = { temperature: 1, maxNewTokens: 9, stopTokens: [] };

function withModel(body: (model: Transformer, device: Device) => Promise<void>, backend = BACKENDS[1]) {
  return withDevice(backend, async (device) => {
    const model = tinyModel(device);
    await body(model, device).finally(() => model.dispose());
  });
}

test("one seed gives one text, another seed another", () =>
  withModel(async (model) => {
    const prompt = [someIds(5)];
    const [a] = await generate(model, prompt, { ...sampled, seed: 4 });
    const [b] = await generate(model, prompt, { ...sampled, seed: 4 });
    const [c] = await generate(model, prompt, { ...sampled, seed: 5 });
    assert.deepEqual(ids(a), ids(b));
    assert.notDeepEqual(ids(a), ids(c));
  }));

for (const backend of BACKENDS) {
  test(`a row's tokens do not depend on the batch it is in, on ${backend}`, () =>
    withModel(async (model) => {
      const prompts = [someIds(5, 1), someIds(11, 2), someIds(2, 3)];
      for (const how of [sampled, { ...sampled, topK: 8, topP: 0.9 }, { ...sampled, temperature: 0 }]) {
        const together = await generate(model, prompts, how);
        const alone = await Promise.all(
          prompts.map((p, b) => generate(model, [p], { ...how, streams: [b] }).then(([g]) => g)),
        );
        assert.deepEqual(together.map(ids), alone.map(ids));
      }
    }, backend));
}

test("rows with the same prompt draw different texts", () =>
  withModel(async (model) => {
    const prompt = someIds(5);
    const texts = await generate(model, [prompt, prompt, prompt], sampled);
    assert.equal(new Set(texts.map((g) => ids(g).join())).size, 3);
  }));

test("a row ends at a stop token, which is its last; the others go on", () =>
  withModel(async (model) => {
    const prompts = [someIds(5, 1), someIds(3, 2)];
    const free = await generate(model, prompts, sampled);
    const stop = free[0].tokens[3];
    const bound = await generate(model, prompts, { ...sampled, stopTokens: [stop] });
    const cut = (all: number[]) => all.slice(0, all.includes(stop) ? all.indexOf(stop) + 1 : all.length);
    assert.deepEqual(
      bound.map(ids),
      free.map((g) => cut(ids(g))),
    );
    assert.equal(bound[0].finish, "stop");
    assert.equal(free[0].finish, "length");
  }));

test("the model's own end of text stops a row", () =>
  withModel(async (model, device) => {
    const prompt = [someIds(5)];
    const [free] = await generate(model, prompt, sampled);
    const same = tinyModel(device, { eosTokens: [free.tokens[2]] });
    const [stopped] = await generate(same, prompt, { ...sampled, stopTokens: undefined });
    assert.ok(stopped.tokens.length <= 3);
    assert.equal(stopped.finish, "stop");
    same.dispose();
  }));

test("text streams out in whole characters and ends before a stop string", () => {
  const text = "héllo wörld 😀 and 日本語, then STOP here";
  for (const stops of [[], ["STOP"], ["here", " then STOP"]]) {
    const stream = new TextStream(brook, stops);
    let out = "";
    for (const id of brook.encode(text)) {
      const part = stream.add(id);
      assert.ok(!part.includes("\uFFFD"), "no character is cut");
      out += part;
      if (stream.stopped) break;
    }
    out += stream.end();
    const ends = stops.map((s) => text.indexOf(s)).filter((i) => i >= 0);
    assert.equal(out, text.slice(0, Math.min(text.length, ...ends)));
    assert.equal(stream.text, out);
    assert.equal(stream.stopped, stops.length > 0);
  }
});

test("an id beyond the tokenizer's vocabulary has no text", () => {
  const stream = new TextStream(brook);
  const [a, b] = brook.encode("a b");
  assert.equal(stream.add(a) + stream.add(brook.vocabSize + 3) + stream.add(b) + stream.end(), "a b");
});

test("what may begin a stop string is held back until it is decided", () => {
  const stream = new TextStream(brook, ["aab"]);
  const feed = (text: string) => Array.from(brook.encode(text), (id) => stream.add(id)).join("");
  assert.equal(feed("x"), "x");
  assert.equal(feed("a") + feed("a"), "");
  assert.equal(feed("c"), "aac");
  assert.equal(feed("a") + stream.end(), "a", "the end decides it");
});

test("a character that never becomes whole is shown as U+FFFD at the end", () => {
  const stream = new TextStream(brook);
  const [first] = brook.encode("\u0F3A"); // Tibetan: three bytes, no merges
  assert.equal(stream.add(first), "");
  assert.equal(stream.end(), "\uFFFD");
});

test("streamed tokens and texts are those of the result, and a stop string is left out", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device, { vocabSize: brook.vocabSize }, 0.2);
    const prompts = [brook.encode("The river", { bos: true }), brook.encode("A", { bos: true })];
    const run = async (stopStrings: string[]) => {
      const events: TokenEvent[] = [];
      const out = await generate(model, prompts, {
        ...sampled,
        tokenizer: brook,
        stopStrings,
        onToken: (e) => events.push(e),
      });
      out.forEach((g, row) => {
        const mine = events.filter((e) => e.row === row);
        assert.deepEqual(
          mine.map((e) => e.token),
          ids(g),
        );
        assert.equal(mine.map((e) => e.text).join(""), g.text);
      });
      return out;
    };
    const [free] = await run([]);
    assert.equal(free.text, brook.decode(free.tokens, { skipSpecial: true }));
    const stop = free.text!.slice(4, 7);
    const [bound] = await run([stop]);
    assert.equal(bound.finish, "stop");
    assert.equal(bound.text, free.text!.slice(0, free.text!.indexOf(stop)));
    model.dispose();
  }));

test("a prompt that fills the context is refused, and a row ends at the context's end", () =>
  withModel(async (model) => {
    const full = someIds(tinySpec.contextLength);
    await assert.rejects(generate(model, [[2], full]), /prompt 1 has 24 tokens.*context of 24/);
    const [short, long] = await generate(model, [[2, 3], full.slice(0, 20)], {
      ...sampled,
      maxNewTokens: 10,
    });
    assert.equal(long.finish, "context");
    assert.equal(long.tokens.length, 4);
    assert.equal(short.finish, "length");
    assert.equal(short.tokens.length, 10);
  }));

for (const [kind, changes] of Object.entries({
  "learned positions": { positions: { kind: "learned" } },
  "windows, one with a rotation of its own": {
    windowPattern: [3, 0, 5],
    positions: { kind: "rope", theta: 10000, fraction: 1, windowed: { theta: 50 } },
  },
} satisfies Record<string, Partial<ModelSpec>>)) {
  test(`${kind}: rows of any length share a batch, past the end of one of them and through a slide`, () =>
    withDevice("native", async (device) => {
      const model = tinyModel(device, changes);
      const prompts = [someIds(tinySpec.contextLength - 2, 1), someIds(3, 2), someIds(9, 3)];
      for (const overflow of ["stop", "slide"] as const) {
        const options = { temperature: 0, stopTokens: [], maxNewTokens: 18, overflow };
        const together = await generate(model, prompts, options);
        const alone = await Promise.all(prompts.map((p) => generate(model, [p], options).then(([g]) => g)));
        assert.deepEqual(together.map(ids), alone.map(ids));
        assert.deepEqual(
          together.map((g) => g.tokens.length),
          overflow === "stop" ? [2, 18, 15] : [18, 18, 18],
        );
      }
      model.dispose();
    }));
}

test("with overflow slide a full row goes on from BOS and the second half", () =>
  withModel(async (model) => {
    const options = { temperature: 0, stopTokens: [], overflow: "slide" } as const;
    const prompt = [0, ...someIds(20)];
    const [long] = await generate(model, [prompt], { ...options, maxNewTokens: 6 });
    const before = await generate(model, [prompt], { ...options, maxNewTokens: 3 });
    const seen = [...prompt, ...before[0].tokens]; // 24 tokens: full
    const [after] = await generate(model, [[0, ...seen.slice(12)]], { ...options, maxNewTokens: 3 });
    assert.deepEqual(ids(long), [...before[0].tokens, ...after.tokens]);
  }));

test("sliding rows do not disturb each other, and prompts beyond the context are read from their end", () =>
  withModel(async (model) => {
    const options = { ...sampled, overflow: "slide", maxNewTokens: 30 } as const;
    const prompts = [someIds(3, 1), [0, ...someIds(22, 2)], someIds(60, 3)];
    const together = await generate(model, prompts, options);
    for (const [b, prompt] of prompts.entries()) {
      const [alone] = await generate(model, [prompt], { ...options, streams: [b] });
      assert.deepEqual(ids(together[b]), ids(alone), `row ${b}`);
      assert.equal(alone.tokens.length, 30);
    }
  }));

test("timers run while it writes, and abort ends it with code interrupted and frees everything", () =>
  withModel(async (model) => {
    const controller = new AbortController();
    let ticks = 0;
    const timer = setInterval(() => {
      if (++ticks === 5) controller.abort();
    }, 1);
    const options = { ...sampled, maxNewTokens: 1e6, overflow: "slide", signal: controller.signal } as const;
    await assert.rejects(generate(model, [[2, 3]], options), { code: "interrupted" });
    clearInterval(timer);
  }));

test("long prompts are read in pieces without changing the result", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device, { contextLength: 4096 });
    const long = someIds(1500);
    const options = { temperature: 0, stopTokens: [], maxNewTokens: 3 };
    const [pieces] = await generate(model, [long], options);
    const whole = await generate(model, [long], { ...options, edit: { hook_embed: (x) => x } });
    assert.deepEqual(ids(pieces), ids(whole[0]));
    model.dispose();
  }));

test("an edit steers every step", () =>
  withModel(async (model, device) => {
    const prompt = [someIds(5)];
    const vector = device.full([16], 2);
    const options = { temperature: 0, stopTokens: [], maxNewTokens: 6 };
    const [plain] = await generate(model, prompt, options);
    const edit = { "blocks.1.hook_resid_post": addVector(vector, 0) };
    const [same] = await generate(model, prompt, { ...options, edit });
    const [steered] = await generate(model, prompt, {
      ...options,
      edit: { "blocks.1.hook_resid_post": addVector(vector, 5) },
    });
    assert.deepEqual(ids(same), ids(plain));
    assert.notDeepEqual(ids(steered), ids(plain));
    vector.dispose();
  }));

test("positions of an edit count from each row's first token, over prompt and new tokens", () =>
  withModel(async (model, device) => {
    const point = "blocks.1.hook_resid_post";
    const vector = device.full([16], 5);
    const options = { temperature: 0, stopTokens: [], maxNewTokens: 4 };
    const prompts = [someIds(3, 1), someIds(7, 2)];
    for (const positions of [[0], [2], [8], [-1]]) {
      const edit = { [point]: atPositions(positions, addVector(vector)) };
      const together = await generate(model, prompts, { ...options, edit });
      for (const [b, prompt] of prompts.entries()) {
        const [alone] = await generate(model, [prompt], { ...options, edit });
        assert.deepEqual(ids(together[b]), ids(alone), `row ${b}, positions ${positions}`);
      }
    }
    const touched: number[] = [];
    const watch: Edit = (x, { decoding }) => {
      touched.push(decoding?.seen ?? -1, x.shape[1]);
      return x;
    };
    await generate(model, prompts, { ...options, maxNewTokens: 2, edit: { [point]: watch } });
    assert.deepEqual(touched, [0, 7, 7, 1]);
    vector.dispose();
  }));

test("what cannot be generated is refused with the reason", () =>
  withModel(async (model) => {
    await assert.rejects(generate(model, [[]]), /prompt 0 is empty/);
    await assert.rejects(generate(model, [[2, 99]]), /token 99, the vocabulary has 31/);
    await assert.rejects(generate(model, [[2]], { maxNewTokens: 0 }), /maxNewTokens=0/);
    await assert.rejects(generate(model, [[2]], { stopStrings: ["x"] }), /need a tokenizer/);
    await assert.rejects(generate(model, [[2]], { streams: [1, 2] }), /2 streams for 1 prompts/);
    assert.deepEqual(await generate(model, []), []);
  }));
