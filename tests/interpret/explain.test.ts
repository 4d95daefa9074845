/**
 * Explaining against a local server: what it is asked, what is made of its answers, and what faults and stops change (nothing).
 */
import assert from "node:assert/strict";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { estimateTokens } from "../../src/interpret/explain/chat.ts";
import {
  parseExplanation,
  parseVerdicts,
  render,
  type ScoreKind,
} from "../../src/interpret/explain/prompts.ts";
import { type FeatureTask, scoreOf, taskOf } from "../../src/interpret/explain/scoring.ts";
import {
  chooseFeatures,
  type ExplainSettings,
  estimateExplaining,
  explainFeatures,
  type FeatureDatabase,
  openFeatureDatabase,
  type ScanOptions,
} from "../../src/interpret/index.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { type ChatBody, type ChatServer, type Fault, faults, startChatServer } from "./chat-server.ts";
import { buildRandom } from "./random-features.ts";

const scan: ScanOptions = {
  features: 12,
  vocabSize: 60,
  context: 16,
  top: 3,
  sample: 48,
  side: 5,
  seed: 5,
  silent: new Set([0, 1]),
  borders: new Set([0, 1]),
  controls: new Set(Array.from({ length: 100 }, (_, i) => 2 * i)),
};
const settings: ExplainSettings = {
  model: "oracle",
  scores: ["detection", "fuzzing"],
  shown: 6,
  tested: 12,
  perQuestion: 5,
  seed: 3,
  explainTokens: 300,
  scoreTokens: 50,
};
const FEATURES = [2, 5, 7];

let temp: TemporaryFolder;
let origin: string;
let tasks: Map<number, FeatureTask>;
before(async () => {
  temp = temporaryFolder();
  origin = join(temp.path, "features");
  await buildRandom(origin, scan, { contexts: 200, documents: false });
  await withDatabase(origin, async (database) => {
    tasks = new Map();
    for (const id of FEATURES) tasks.set(id, (await taskIn(database, id))!);
  });
});
after(() => temp[Symbol.dispose]());

async function withDatabase<R>(folder: string, work: (database: FeatureDatabase) => Promise<R>): Promise<R> {
  const database = await openFeatureDatabase(folder);
  try {
    return await work(database);
  } finally {
    database.close();
  }
}

async function taskIn(database: FeatureDatabase, id: number): Promise<FeatureTask | undefined> {
  const source = { examples: await database.examples(id), controls: await database.controls() };
  return taskOf(id, source, await database.vocabulary(), settings);
}

let copies = 0;
function freshCopy(): string {
  const folder = join(temp.path, `copy-${copies++}`);
  cpSync(origin, folder, { recursive: true });
  return folder;
}

const passagesIn = (text: string): string[] => [...text.matchAll(/Passage \d+: (.*)/g)].map((m) => m[1]);

/** Knows which feature each first question is about, and each right answer. */
function oracle({ messages }: ChatBody): string {
  const [{ content: system }, { content }] = messages;
  if (system.includes("[EXPLANATION]")) {
    const found = [...tasks].find(([, task]) => content.includes(`${render(task.shown[0].passage, true)}\n`));
    return `Let me think: [EXPLANATION]: is asked for.\n[EXPLANATION]: "feature ${found?.[0]}"\n`;
  }
  const kind: ScoreKind = system.includes("<<") ? "fuzzing" : "detection";
  const task = tasks.get(Number(/Description: feature (\d+)/.exec(content)?.[1]))!;
  const answers = passagesIn(content).map((text) => {
    const item = task[kind].find((i) => render(i.passage, kind === "fuzzing") === text);
    return item?.positive ? 1 : 0;
  });
  return `As [0] asks:\n[${answers.join(", ")}]`;
}

async function explain(
  folder: string,
  server: ChatServer,
  more: Partial<Parameters<typeof explainFeatures>[1]> = {},
) {
  return withDatabase(folder, (database) =>
    explainFeatures(database, {
      settings,
      features: FEATURES,
      ...more,
      chat: { endpoint: server.url, backoffMs: 5, ...more.chat },
    }),
  );
}

const rowsOf = (folder: string) => withDatabase(folder, (database) => database.explanations());

async function withServer<R>(
  work: (server: ChatServer) => Promise<R>,
  answer = oracle,
  options: Parameters<typeof startChatServer>[1] = {},
): Promise<R> {
  const server = await startChatServer(answer, options);
  try {
    return await work(server);
  } finally {
    await server.close();
  }
}

test("passages are above the median, used once, and marked as the protocol says", async () => {
  await withDatabase(origin, async (database) => {
    const examples = await database.examples(2, { from: "sample", aboveQuantile: 0.5 });
    const controls = await database.controls();
    const { pieces } = await database.vocabulary().then((v) => ({ pieces: v.pieces.bind(v) }));
    const task = tasks.get(2)!;
    const marksOf = (text: string) =>
      examples.find((e) => pieces(e.tokens).join("") === text)?.activations.map((a) => a > 0);
    const silentTexts = controls.filter((c) => !c.features.includes(2)).map((c) => pieces(c.tokens).join(""));
    const textOf = ({ passage }: { passage: { pieces: readonly string[] } }) => passage.pieces.join("");

    assert.equal(task.shown.length, 6);
    assert.ok(task.shown.every(({ example }) => example.quantile! > 0.5));
    const { detection, fuzzing } = task;
    assert.equal(detection.length, 24);
    assert.equal(detection.filter((i) => i.positive).length, 12);
    for (const item of detection) {
      if (item.positive) assert.deepEqual(item.passage.marked, marksOf(textOf(item)));
      else assert.ok(silentTexts.includes(textOf(item)));
    }
    // 24 examples above the median, 6 shown: 12 right ones, 6 with wrong marks, 6 silent passages
    assert.equal(fuzzing.length, 24);
    assert.equal(fuzzing.filter((i) => i.positive).length, 12);
    const wrong = fuzzing.filter((i) => !i.positive && marksOf(textOf(i)));
    assert.equal(wrong.length, 6);
    for (const item of wrong) {
      const fired = marksOf(textOf(item))!;
      assert.ok(item.passage.marked.includes(true));
      assert.ok(item.passage.marked.every((is, i) => !(is && fired[i])));
    }
    const random = fuzzing.filter((i) => !i.positive && !marksOf(textOf(i)));
    assert.ok(random.every((i) => silentTexts.includes(textOf(i)) && i.passage.marked.includes(true)));
    for (const items of [detection, fuzzing]) {
      const texts = [...items, ...task.shown].map(textOf);
      assert.equal(new Set(texts).size, texts.length, "no passage twice");
    }
    assert.equal(await taskIn(database, 11), undefined, "a feature that never fired");
  });
});

test("answers are read from behind what a model thinks aloud, and not guessed", () => {
  assert.equal(
    parseExplanation("Hm. [EXPLANATION]: a\n\n[EXPLANATION]:  names of rivers \n"),
    "names of rivers",
  );
  assert.equal(parseExplanation("[EXPLANATION]:\n“dates”"), "dates");
  assert.equal(parseExplanation("names of rivers"), undefined);
  assert.equal(parseExplanation("[EXPLANATION]: "), undefined);
  assert.deepEqual(parseVerdicts("[1,0] no, rather [0, 1, 1]", 3), [false, true, true]);
  assert.equal(parseVerdicts("[1, 0, 1]", 2), undefined);
  assert.equal(parseVerdicts("[1, 2]", 2), undefined);
  assert.equal(parseVerdicts("1, 0", 2), undefined);
});

test("marks join neighbours, and a passage is one line", () => {
  const passage = { pieces: [" a", " b", "c\n", " d"], marked: [true, true, false, true] };
  assert.equal(render(passage, true), "<< a b>>c\\n<< d>>");
  assert.equal(render(passage, false), " a bc\\n d");
});

test("the score is the mean of both rates over the answers that could be read", () => {
  const passage = { pieces: [], marked: [] };
  const items = [true, true, true, false, false].map((positive) => ({ passage, positive }));
  assert.deepEqual(scoreOf(items, [true, false, true, false, undefined]), {
    score: (2 / 3 + 1) / 2,
    tpr: 2 / 3,
    tnr: 1,
    positives: 3,
    negatives: 1,
    dropped: 1,
  });
  const onlyPositives = scoreOf(items, [true, true, true, undefined, undefined]);
  assert.equal(onlyPositives.score, null);
  assert.equal(onlyPositives.tpr, 1);
});

test("an oracle gets 1, one who always says yes gets a half, and usage is what the server counted", async () => {
  const folder = freshCopy();
  await withServer(async (server) => {
    const estimate = await withDatabase(folder, (database) =>
      estimateExplaining(database, { settings, features: FEATURES }),
    );
    const result = await explain(folder, server);
    assert.deepEqual(
      result.explanations.map((e) => [e.feature, e.explanation, e.detection?.score, e.fuzzing?.score]),
      FEATURES.map((id) => [id, `feature ${id}`, 1, 1]),
    );
    // 24 items, 5 a question: 5 questions for each score, and one for the explanation
    assert.equal(server.received.length, 33);
    assert.deepEqual([result.requests, result.promptTokens, result.completionTokens], [33, 3300, 231]);
    assert.equal(estimate.requests, 33);
    assert.equal(estimate.completionTokens, 3 * (300 + 10 * 50));
    const asked = server.received.reduce(
      (n, r) => n + r.body.messages.reduce((m, t) => m + t.content.length, 0),
      0,
    );
    // Explanations that are not known yet are taken to be longer than the oracle's.
    const ratio = estimate.promptTokens / (asked / 4);
    assert.ok(ratio > 1 && ratio < 1.3, `${ratio}`);
    const [row] = await rowsOf(folder);
    assert.equal(row.explainer, "oracle");
    assert.equal(row.promptTokens, 1100);
    assert.equal(row.detection?.positives, 12);
    assert.equal(JSON.parse(row.settings).prompts, 1);
    const { body, path, headers } = server.received[0];
    assert.equal(path, "/v1/chat/completions");
    assert.equal(headers.authorization, undefined);
    assert.deepEqual([body.model, body.temperature, body.max_tokens, body.seed], ["oracle", 0, 300, 3]);
  });
  const yes = ({ messages }: ChatBody) =>
    messages[0].content.includes("[EXPLANATION]")
      ? "[EXPLANATION]: anything"
      : `[${passagesIn(messages[1].content).map(() => 1)}]`;
  await withServer(async (server) => {
    const yesSettings = { ...settings, model: "yes" };
    const { explanations } = await explain(folder, server, { settings: yesSettings });
    for (const e of explanations) {
      assert.deepEqual([e.detection?.score, e.detection?.tpr, e.detection?.tnr], [0.5, 1, 0]);
    }
  }, yes);
  const rows = await rowsOf(folder);
  assert.equal(rows.length, 6, "what two models said stands side by side");
  await withDatabase(folder, async (database) => {
    const best = await database.features({ sort: "detection", descending: true, limit: 3 });
    assert.deepEqual(
      best.map((f) => f.id),
      FEATURES,
    );
    assert.deepEqual(await database.ids({ explained: "Feature 5" }), [5]);
    assert.deepEqual(await database.ids({ where: { fuzzing: { min: 0.9 } } }), FEATURES);
  });
});

test("faults of every kind are waited out, and change nothing in the result", async () => {
  const clean = freshCopy();
  await withServer((server) => explain(clean, server));
  const folder = freshCopy();
  const script: (Fault | undefined)[] = [
    faults.status(429, { "retry-after": "1" }, "slow down"),
    faults.status(500),
    faults.body("<html>bad gateway</html>"),
    faults.body('{"choices":[]}'),
    faults.cut,
    undefined,
    faults.silence,
    faults.status(503, { "retry-after": new Date(Date.now() + 500).toUTCString() }),
  ];
  const whys: string[] = [];
  await withServer(
    async (server) => {
      const chat = {
        endpoint: server.url,
        backoffMs: 5,
        parallel: 1,
        timeoutMs: 400,
        onRetry: (why: string) => void whys.push(why),
      };
      await explain(folder, server, { chat });
      assert.equal(server.received.length, 33 + 7);
      const [first, second] = server.received;
      assert.ok(
        second.at - first.at >= 950,
        `Retry-After: 1, but asked again after ${second.at - first.at} ms`,
      );
    },
    oracle,
    { faultOf: (n) => script[n] },
  );
  assert.deepEqual(await rowsOf(folder), await rowsOf(clean));
  const expected = [
    /status 429: slow down/,
    /status 500/,
    /answer is not JSON: "<html>/,
    /answer has no message/,
    /terminated|ECONNRESET|closed/,
    /no answer within 0\.4 s/,
    /status 503/,
  ];
  assert.equal(whys.length, expected.length, whys.join("\n"));
  for (const [i, why] of whys.entries()) assert.match(why, expected[i]);
});

test("a run that was stopped asks nothing twice and ends with the same rows", async () => {
  const whole = freshCopy();
  await withServer((server) => explain(whole, server));
  const folder = freshCopy();
  const asked: string[] = [];
  const counting = (body: ChatBody) => {
    asked.push(JSON.stringify(body));
    return oracle(body);
  };
  await withServer(async (server) => {
    const controller = new AbortController();
    const stopping = startStop(server, 9, controller);
    await assert.rejects(
      explain(folder, server, { signal: controller.signal, chat: { endpoint: server.url, parallel: 2 } }),
      /interrupted; \d of 3 features are explained, all answers are kept, and the same command goes on/,
    );
    await stopping;
  }, counting);
  // As a crash would leave it: half a line at the end.
  const answers = join(folder, "answers.jsonl");
  const kept = readFileSync(answers, "utf8").trimEnd().split("\n").length;
  writeFileSync(answers, `${readFileSync(answers, "utf8")}{"key":"12`);
  assert.ok(kept >= 5 && kept < 33, `${kept} answers`);
  await withServer(async (server) => {
    const estimate = await withDatabase(folder, (database) =>
      estimateExplaining(database, { settings, features: FEATURES }),
    );
    assert.equal(estimate.requests, 33 - kept);
    const result = await explain(folder, server);
    assert.equal(result.requests, 33 - kept);
    assert.equal(server.received.length, 33 - kept);
    const again = await explain(folder, server);
    assert.equal(again.requests, 0);
  }, counting);
  assert.deepEqual(await rowsOf(folder), await rowsOf(whole));
});

async function startStop(server: ChatServer, requests: number, controller: AbortController): Promise<void> {
  while (server.received.length < requests) await new Promise((go) => setTimeout(go, 1));
  controller.abort();
}

test("answers that cannot be read drop their passages; an explanation that cannot is asked for again", async () => {
  const folder = freshCopy();
  let explained = 0;
  const odd = (body: ChatBody) => {
    const isFirst = body.messages[0].content.includes("[EXPLANATION]");
    if (isFirst && explained++ === 0) return "I cannot tell.";
    if (!isFirst && passagesIn(body.messages[1].content).length === 5 && /<</.test(body.messages[0].content))
      return "[1]";
    return oracle(body);
  };
  await withServer(async (server) => {
    const chat = { endpoint: server.url, parallel: 1 };
    const first = await explain(folder, server, { chat });
    assert.deepEqual(first.failed, [2]);
    assert.deepEqual(
      first.explanations.map((e) => e.feature),
      [5, 7],
    );
    for (const { fuzzing, detection } of first.explanations) {
      assert.equal(detection?.score, 1);
      assert.equal(fuzzing?.dropped, 20, "four questions of five passages");
      assert.equal(fuzzing!.positives + fuzzing!.negatives, 4);
    }
    const second = await explain(folder, server, { chat });
    assert.deepEqual(second.failed, []);
    assert.equal(second.requests, 11, "only the feature that failed");
  }, odd);
});

test("what a server refuses ends the run at once, with the way out", async () => {
  const cases: [number, RegExp][] = [
    [
      401,
      /answered 401: no; the key in \$KEY was not accepted: set it, or name another variable with --key-env/,
    ],
    [404, /answered 404: no; is the endpoint right, up to \/v1, and is there a model "oracle"/],
    [400, /answered 400: no; fields that the server does not take can be changed with --body/],
  ];
  const folder = freshCopy();
  for (const [status, message] of cases) {
    await withServer(
      async (server) => {
        const chat = {
          endpoint: `${server.url}/chat/completions/`,
          key: "secret",
          keyName: "$KEY",
          parallel: 2,
        };
        await assert.rejects(explain(folder, server, { chat }), message);
        assert.ok(server.received.length <= 2);
        assert.equal(server.received[0].path, "/v1/chat/completions");
        assert.equal(server.received[0].headers.authorization, "Bearer secret");
      },
      oracle,
      { faultOf: () => faults.status(status) },
    );
  }
  await withServer(
    async (server) => {
      const chat = { endpoint: server.url, retries: 2, backoffMs: 1, parallel: 1 };
      await assert.rejects(
        explain(folder, server, { chat }),
        /3 attempts failed, the last one with: status 500/,
      );
      assert.equal(server.received.length, 3);
      const patient = { endpoint: server.url };
      await assert.rejects(
        explain(folder, server, { settings: { ...settings, model: "x" }, chat: patient }),
        /asks to wait 9000 s .*; run the same command later, it goes on from here/,
      );
    },
    oracle,
    {
      faultOf: (_, { model }) =>
        model === "x" ? faults.status(429, { "retry-after": "9000" }) : faults.status(500),
    },
  );
  for (const endpoint of ["localhost", "ftp://localhost/v1"]) {
    await withServer((server) =>
      assert.rejects(
        explain(folder, server, { chat: { endpoint } }),
        /--endpoint .*: (not a URL|must begin with)/,
      ),
    );
  }
});

test("requests keep to their pace and their number at a time", async () => {
  await withServer(
    async (server) => {
      await explain(freshCopy(), server, { chat: { endpoint: server.url, parallel: 3 } });
      assert.equal(server.busiest(), 3);
    },
    oracle,
    { delayMs: 5 },
  );
  await withServer(async (server) => {
    const chat = { endpoint: server.url, requestsPerMinute: 1200 }; // one in 50 ms
    await explain(freshCopy(), server, {
      chat,
      features: [2],
      settings: { ...settings, scores: ["detection"] },
    });
    assert.equal(server.received.length, 6);
    const took = server.received[5].at - server.received[0].at;
    assert.ok(took >= 240, `${took} ms for five pauses`);
  });
  await withServer(async (server) => {
    const tokensPerMinute = 60_000 * 10; // ten a millisecond
    await explain(freshCopy(), server, { chat: { endpoint: server.url, tokensPerMinute }, features: [2] });
    const first = server.received.slice(0, 10);
    const tokens = first.reduce(
      (n, { body }) => n + estimateTokens(body.messages as never) + Number(body.max_tokens),
      0,
    );
    const took = server.received[10].at - server.received[0].at;
    assert.ok(took >= 0.95 * (tokens / 10), `${took} ms for ${tokens} tokens`);
  });
});

test("features are chosen at random among those that fired enough, and more are added behind", async () => {
  await withDatabase(origin, async (database) => {
    const few = await chooseFeatures(database, { count: 4, seed: 1 });
    const more = await chooseFeatures(database, { count: 100, seed: 1 });
    assert.deepEqual(more.slice(0, 4), few);
    assert.equal(more.length, 11, "all but the one that never fired");
    assert.notDeepEqual(await chooseFeatures(database, { count: 4, seed: 2 }), few);
  });
});

test("fields of the body are added, changed and taken out; without scores nothing is scored", async () => {
  const folder = freshCopy();
  await withServer(async (server) => {
    const body = { max_tokens: null, max_completion_tokens: 99, temperature: 1 };
    const { explanations } = await explain(folder, server, { settings: { ...settings, scores: [], body } });
    assert.equal(server.received.length, 3);
    const sent = server.received[0].body;
    assert.deepEqual([sent.max_tokens, sent.max_completion_tokens, sent.temperature], [undefined, 99, 1]);
    assert.deepEqual([explanations[0].detection, explanations[0].scorer], [null, null]);
    assert.deepEqual((await rowsOf(folder))[0].fuzzing, null);
  });
});
