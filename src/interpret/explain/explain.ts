/**
 * Explaining features with a language model behind an OpenAI-compatible endpoint, and scoring the explanations.
 * What it will cost is known before the first question. An interrupted or killed run asks nothing twice, and ends with the same rows.
 */
import { join } from "node:path";
import { interruptedError, Rng, SluiceError, throwIfAborted, usageError } from "../../util/index.ts";
import type { FeatureDatabase } from "../feature-database.ts";
import type { Vocabulary } from "../vocabulary.ts";
import { Answers } from "./answers.ts";
import { ChatClient, type ChatMessage, type ChatOptions, type ChatRequest, estimateTokens } from "./chat.ts";
import { addExplanations, type Explanation } from "./explanations.ts";
import {
  explainMessages,
  PROMPTS,
  parseExplanation,
  parseVerdicts,
  type ScoreKind,
  scoreMessages,
} from "./prompts.ts";
import { type FeatureTask, type Item, LEAST_EXAMPLES, type Score, scoreOf, taskOf } from "./scoring.ts";

/** All that decides the questions. */
export interface ExplainSettings {
  /** Model that explains. */
  readonly model: string;
  /** Model that is asked for the scores; default the one that explains. */
  readonly scorer?: string;
  readonly scores: readonly ScoreKind[];
  /** Examples to explain from; the paper's 16. */
  readonly shown: number;
  /** Most positives, and most negatives, of each score; the paper's 64. */
  readonly tested: number;
  /** Passages in a question for a score; the paper's 8. */
  readonly perQuestion: number;
  readonly seed: number;
  /** What an answer may have. */
  readonly explainTokens: number;
  readonly scoreTokens: number;
  /** Fields for the body of every request; null takes one out. */
  readonly body?: Readonly<Record<string, unknown>>;
}

export interface ExplainOptions {
  readonly settings: ExplainSettings;
  readonly chat: ChatOptions;
  /** Features to explain; see `chooseFeatures`. */
  readonly features: readonly number[];
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number, tokens: number) => void;
}

export interface ExplainResult {
  readonly explanations: readonly Explanation[];
  /** Features with too few examples above the median. */
  readonly skipped: readonly number[];
  /** Features whose explanation could not be read; the next run asks again. */
  readonly failed: readonly number[];
  /** Put to the server by this run, and what it counted. */
  readonly requests: number;
  readonly promptTokens: number;
  readonly completionTokens: number;
}

/** What a run would ask for, beyond what is answered already. */
export interface ExplainEstimate {
  readonly features: number;
  readonly requests: number;
  readonly promptTokens: number;
  /** At most. */
  readonly completionTokens: number;
  /** Features that the numbers were found on; the others are taken to be like them. */
  readonly sampled: number;
}

/** Tokens of an explanation that is not known yet. */
const TYPICAL_EXPLANATION = "x".repeat(120);
/** Features that an estimate looks at. */
const SAMPLED = 64;

/**
 * Features to explain: the first `count` of a random order of those that fired in enough contexts. More are only added at the
 * end, so that a run can be widened.
 */
export async function chooseFeatures(
  database: FeatureDatabase,
  { count, seed }: { count: number; seed: number },
): Promise<number[]> {
  const able = new Set(await database.ids({ where: { contexts: { min: 2 * LEAST_EXAMPLES } } }));
  const order = new Rng(seed).fork("features").permutation(database.index.features);
  return [...order].filter((id) => able.has(id)).slice(0, count);
}

/** Counts the questions without asking them. */
export async function estimateExplaining(
  database: FeatureDatabase,
  { settings, features }: Pick<ExplainOptions, "settings" | "features">,
): Promise<ExplainEstimate> {
  const run = await Run.open(database, settings);
  try {
    const sampled = Math.min(SAMPLED, features.length);
    const total = { requests: 0, promptTokens: 0, completionTokens: 0 };
    for (let i = 0; i < sampled; i++) {
      const task = await run.task(features[Math.floor((i * features.length) / sampled)]);
      if (task) run.count(task, total);
    }
    const scale = (n: number) => (sampled === 0 ? 0 : Math.round((n * features.length) / sampled));
    return {
      features: features.length,
      requests: scale(total.requests),
      promptTokens: scale(total.promptTokens),
      completionTokens: scale(total.completionTokens),
      sampled,
    };
  } finally {
    run.close();
  }
}

/** Explains and scores; writes the table also when it was stopped. */
export async function explainFeatures(
  database: FeatureDatabase,
  options: ExplainOptions,
): Promise<ExplainResult> {
  const { settings, features, signal, onProgress } = options;
  throwIfAborted(signal);
  const halt = new AbortController(); // of all workers, when one has failed
  const stop = () => halt.abort();
  signal?.addEventListener("abort", stop);
  const client = new ChatClient({ ...options.chat, signal: halt.signal });
  const run = await Run.open(database, settings, client);
  const found: Explanation[] = [];
  const skipped: number[] = [];
  const failed: number[] = [];
  const waiting = [...features].reverse();
  let done = 0;
  let stopped: unknown;
  const work = async (): Promise<void> => {
    for (let id = waiting.pop(); id !== undefined && !halt.signal.aborted; id = waiting.pop()) {
      const task = await run.task(id);
      const explanation = task && (await run.explain(task));
      if (!task) skipped.push(id);
      else if (explanation) found.push(explanation);
      else failed.push(id);
      onProgress?.(++done, features.length, run.spent.promptTokens + run.spent.completionTokens);
    }
  };
  try {
    const workers = Array.from({ length: options.chat.parallel ?? 4 }, () =>
      work().catch((error) => {
        stopped ??= error;
        stop();
      }),
    );
    await Promise.all(workers);
    if (found.length > 0) await addExplanations(database.folder, found);
  } finally {
    signal?.removeEventListener("abort", stop);
    run.close();
  }
  if (signal?.aborted) {
    throw interruptedError(
      `interrupted; ${found.length} of ${features.length} features are explained, all answers are kept, and the same command goes on from there`,
    );
  }
  if (stopped) throw stopped;
  const ascending = (a: number, b: number) => a - b;
  found.sort((a, b) => a.feature - b.feature);
  return {
    explanations: found,
    skipped: skipped.sort(ascending),
    failed: failed.sort(ascending),
    ...run.spent,
  };
}

/** One run's questions: what is known, what is asked. */
class Run {
  /** Of this run, without what was known before. */
  readonly spent = { requests: 0, promptTokens: 0, completionTokens: 0 };
  readonly #database: FeatureDatabase;
  readonly #settings: ExplainSettings;
  readonly #vocabulary: Vocabulary;
  readonly #controls: Awaited<ReturnType<FeatureDatabase["controls"]>>;
  readonly #answers: Answers;
  readonly #client: ChatClient | undefined;

  private constructor(
    database: FeatureDatabase,
    settings: ExplainSettings,
    read: { vocabulary: Vocabulary; controls: Awaited<ReturnType<FeatureDatabase["controls"]>> },
    client: ChatClient | undefined,
  ) {
    this.#database = database;
    this.#settings = settings;
    this.#vocabulary = read.vocabulary;
    this.#controls = read.controls;
    this.#client = client;
    this.#answers = new Answers(join(database.folder, "answers.jsonl"));
  }

  static async open(database: FeatureDatabase, settings: ExplainSettings, client?: ChatClient): Promise<Run> {
    const { shown, tested, perQuestion } = settings;
    for (const [name, value] of Object.entries({ shown, tested, perQuestion })) {
      if (!Number.isSafeInteger(value) || value < 1)
        throw usageError(`explain: ${name}=${value} must be a whole number of at least 1`);
    }
    const vocabulary = await database.vocabulary();
    return new Run(database, settings, { vocabulary, controls: await database.controls() }, client);
  }

  close(): void {
    this.#answers.close();
  }

  async task(feature: number): Promise<FeatureTask | undefined> {
    const examples = await this.#database.examples(feature, { from: "sample" });
    return taskOf(feature, { examples, controls: this.#controls }, this.#vocabulary, this.#settings);
  }

  /** Adds what a task would ask beyond what is known. */
  count(
    task: FeatureTask,
    total: { requests: number; promptTokens: number; completionTokens: number },
  ): void {
    const { explainTokens, scoreTokens, scores } = this.#settings;
    const add = (request: ChatRequest, tokens: number) => {
      if (this.#answers.get(request)) return;
      total.requests++;
      total.promptTokens += estimateTokens(request.messages);
      total.completionTokens += tokens;
    };
    const first = this.#explainRequest(task);
    add(first, explainTokens);
    const known = this.#answers.get(first);
    const explanation = known && parseExplanation(known.content);
    for (const kind of scores) {
      for (const items of this.#questions(task[kind]))
        add(this.#scoreRequest(kind, explanation ?? TYPICAL_EXPLANATION, items), scoreTokens);
    }
  }

  async explain(task: FeatureTask): Promise<Explanation | undefined> {
    const { model, scorer = model, scores } = this.#settings;
    const used = { promptTokens: 0, completionTokens: 0 };
    const ask = async (request: ChatRequest, isGood: (content: string) => boolean = () => true) => {
      const answer = await this.#ask(request, isGood);
      used.promptTokens += answer.promptTokens;
      used.completionTokens += answer.completionTokens;
      return answer.content;
    };
    const answer = await ask(
      this.#explainRequest(task),
      (content) => parseExplanation(content) !== undefined,
    );
    const explanation = parseExplanation(answer);
    if (explanation === undefined) return undefined;
    const score = async (kind: ScoreKind): Promise<Score | null> => {
      if (!scores.includes(kind)) return null;
      const questions = this.#questions(task[kind]);
      const verdicts = await Promise.all(
        questions.map(async (items) => {
          const content = await ask(this.#scoreRequest(kind, explanation, items));
          return parseVerdicts(content, items.length) ?? items.map(() => undefined);
        }),
      );
      return scoreOf(task[kind], verdicts.flat());
    };
    const [detection, fuzzing] = [await score("detection"), await score("fuzzing")];
    return {
      feature: task.feature,
      explanation,
      explainer: model,
      scorer: scores.length > 0 ? scorer : null,
      settings: JSON.stringify(settingsOf(this.#settings)),
      ...used,
      detection,
      fuzzing,
    };
  }

  /** What is known, or the server's answer; only a good one is kept. */
  async #ask(request: ChatRequest, isGood: (content: string) => boolean) {
    const known = this.#answers.get(request);
    if (known) return known;
    if (!this.#client) throw new SluiceError("usage", "explain: no endpoint was named");
    const answer = await this.#client.complete(request);
    this.spent.requests++;
    this.spent.promptTokens += answer.promptTokens;
    this.spent.completionTokens += answer.completionTokens;
    if (isGood(answer.content)) this.#answers.add(request, answer);
    return answer;
  }

  #questions(items: readonly Item[]): (readonly Item[])[] {
    const { perQuestion } = this.#settings;
    const questions = Math.ceil(items.length / perQuestion);
    return Array.from({ length: questions }, (_, i) => items.slice(i * perQuestion, (i + 1) * perQuestion));
  }

  #explainRequest(task: FeatureTask): ChatRequest {
    const { model, explainTokens } = this.#settings;
    return this.#request(model, explainMessages(task.shown), explainTokens);
  }

  #scoreRequest(kind: ScoreKind, explanation: string, items: readonly Item[]): ChatRequest {
    const { model, scorer = model, scoreTokens } = this.#settings;
    const passages = items.map((item) => item.passage);
    return this.#request(scorer, scoreMessages(kind, explanation, passages), scoreTokens);
  }

  #request(model: string, messages: readonly ChatMessage[], tokens: number): ChatRequest {
    const { body = {}, seed } = this.#settings;
    const fields = { temperature: 0, seed, max_tokens: tokens, ...body };
    const kept = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null));
    return { ...kept, model, messages };
  }
}

/** With its defaults, and the version of the prompts. */
function settingsOf({ model, scorer = model, body = {}, ...rest }: ExplainSettings) {
  return { prompts: PROMPTS, model, scorer, ...rest, body };
}
