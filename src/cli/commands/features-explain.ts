/**
 * `sluice features explain`: explanations and their scores from any OpenAI-compatible server.
 */
import { z } from "zod";
import {
  chatUrl,
  chooseFeatures,
  type ExplainEstimate,
  type ExplainResult,
  type ExplainSettings,
  estimateExplaining,
  explainFeatures,
  openFeatureDatabase,
} from "../../interpret/index.ts";
import { lockFolder } from "../../sae/index.ts";
import { formatCount, formatDuration, median, usageError } from "../../util/index.ts";
import { defineCommand } from "../command.ts";
import { commandName, shellWord } from "../package.ts";
import { featuresField } from "./features-list.ts";
import { count } from "./shared.ts";

const PACE = "Pace";
const PROTOCOL = "Protocol";

const schema = z.object({
  features: featuresField,
  id: z.array(z.number().int().min(0)).optional().describe("features to explain [--max-features at random]"),
  endpoint: z
    .string()
    .describe("OpenAI-compatible server, such as http://localhost:8000/v1 or https://api.openai.com/v1"),
  model: z.string().describe("model that explains, as the server calls it"),
  scorer: z.string().optional().describe("model that is asked for the scores [--model]"),
  keyEnv: z
    .string()
    .default("OPENAI_API_KEY")
    .describe("environment variable with the server's key; none is sent where it is not set"),
  maxFeatures: count().default(100).describe("features to explain, where none are named"),
  dryRun: z.boolean().default(false).describe("only show what it would cost"),
  yes: z.boolean().default(false).describe("begin; without it the cost is shown and nothing is sent"),
  promptPrice: z.number().min(0).optional().describe("price of a million prompt tokens, to show the cost"),
  answerPrice: z.number().min(0).optional().describe("price of a million answer tokens, to show the cost"),
  score: z
    .array(z.enum(["detection", "fuzzing", "none"]))
    .default(["detection", "fuzzing"])
    .describe("how explanations are scored"),
  shown: count().default(16).describe("passages to explain from").meta({ group: PROTOCOL }),
  tested: count()
    .default(64)
    .describe("most positives, and most negatives, of each score")
    .meta({ group: PROTOCOL }),
  perQuestion: count().default(8).describe("passages in a question for a score").meta({ group: PROTOCOL }),
  seed: z
    .number()
    .int()
    .min(0)
    .default(0)
    .describe("seed of the choice of features and passages, also sent to the server")
    .meta({ group: PROTOCOL }),
  explainTokens: count()
    .default(2000)
    .describe("most tokens of an explanation, thinking included")
    .meta({ group: PROTOCOL }),
  scoreTokens: count()
    .default(200)
    .describe("most tokens of an answer to be scored")
    .meta({ group: PROTOCOL }),
  body: z
    .string()
    .optional()
    .describe(
      'JSON object of fields for every request; null takes one out, as in {"max_tokens":null,"max_completion_tokens":4000}',
    )
    .meta({ group: PROTOCOL }),
  parallel: count().default(4).describe("requests under way at a time").meta({ group: PACE }),
  requestsPerMinute: count()
    .optional()
    .describe("most requests started a minute [no limit]")
    .meta({ group: PACE }),
  tokensPerMinute: count()
    .optional()
    .describe("most tokens a minute, those of answers counted at their limit [no limit]")
    .meta({ group: PACE }),
  retries: z
    .number()
    .int()
    .min(0)
    .default(6)
    .describe("further attempts where the server is overloaded, breaks off or answers with nonsense")
    .meta({ group: PACE }),
  timeout: z.number().positive().default(120).describe("seconds to wait for an answer").meta({ group: PACE }),
});
type Options = z.output<typeof schema>;

export const featuresExplain = defineCommand({
  name: "features explain",
  summary: "let a language model explain features, and score what it says",
  description:
    "Shows a language model passages of each feature from above its median activation and asks for a phrase; then tests the " +
    "phrase on other passages. Detection: in which of these does it fire? Fuzzing: are the right tokens marked? Both scores are " +
    "(TPR + TNR) / 2, so that guessing gets 0.5. First it shows how many requests and tokens that will take (estimated at 4 bytes " +
    "a token); only with --yes it begins. Every answer is kept in answers.jsonl as it comes and never asked for again: the same " +
    "command goes on after Ctrl-C, a kill or a server's failure. The result is explanations.parquet in the database's folder, " +
    "beside what other models said; `sluice features show`, `list --sort detection` and `report` read it.",
  schema,
  positional: ["id"],
  examples: [
    "sluice features explain --features out/features --endpoint http://localhost:8000/v1 --model qwen3-14b --dry-run",
    "sluice features explain 3 14 15 --features out/features --endpoint http://localhost:8000/v1 --model qwen3-14b --yes",
    "sluice features explain --features out/features --endpoint https://api.openai.com/v1 --model gpt-4.1-mini --prompt-price 0.4 --answer-price 1.6 --requests-per-minute 300 --dry-run",
  ],
  async run(options, context) {
    const settings = settingsOf(options);
    const chat = chatOf(options, context.log);
    const database = await openFeatureDatabase(options.features);
    try {
      const features = [...new Set(options.id ?? (await chosen(options, database)))];
      const estimate = await estimateExplaining(database, { settings, features });
      const cost = costOf(options, estimate.promptTokens, estimate.completionTokens);
      context.log(describeEstimate(estimate, cost, options));
      if (!options.yes || options.dryRun) {
        return {
          json: { ...estimate, cost, started: false },
          text: options.dryRun ? "dry run: nothing was sent" : "nothing was sent; add --yes to begin",
          failed: !options.dryRun,
        };
      }
      const unlock = lockFolder(options.features);
      const progress = context.progress({ label: "explaining", unit: "features", total: features.length });
      const began = performance.now();
      try {
        const result = await explainFeatures(database, {
          settings,
          chat,
          features,
          signal: context.signal,
          onProgress: (done, _, tokens) => progress.update(done, { tokens }),
        });
        progress.finish();
        const seconds = (performance.now() - began) / 1000;
        return {
          json: {
            out: options.features,
            ...result,
            cost: costOf(options, result.promptTokens, result.completionTokens),
            seconds,
          },
          text: describeResult(result, options, seconds),
        };
      } finally {
        unlock();
      }
    } finally {
      database.close();
    }
  },
});

async function chosen(options: Options, database: Parameters<typeof chooseFeatures>[0]): Promise<number[]> {
  const found = await chooseFeatures(database, { count: options.maxFeatures, seed: options.seed });
  if (found.length > 0) return found;
  throw usageError(
    `${options.features}: no feature fired in enough contexts to be explained; build the database from more text (--tokens)`,
  );
}

function settingsOf(options: Options): ExplainSettings {
  const { model, scorer, score, shown, tested, perQuestion, seed, explainTokens, scoreTokens } = options;
  if (score.includes("none") && score.length > 1)
    throw usageError(`--score ${score.join(",")}: none stands alone`);
  const scores = score.flatMap((kind) => (kind === "none" ? [] : [kind]));
  const protocol = { shown, tested, perQuestion, seed, explainTokens, scoreTokens };
  return { model, scorer, scores: [...new Set(scores)].sort(), ...protocol, body: bodyOf(options.body) };
}

function bodyOf(text: string | undefined): Record<string, unknown> | undefined {
  if (text === undefined) return undefined;
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (error) {
    throw usageError(`--body ${text}: not valid JSON: ${(error as Error).message}`);
  }
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw usageError(`--body ${text}: a JSON object was expected, such as {"temperature":0.5}`);
  }
  return body as Record<string, unknown>;
}

function chatOf(options: Options, log: (message: string) => void) {
  const { endpoint, keyEnv, parallel, requestsPerMinute, tokensPerMinute, retries, timeout } = options;
  return {
    endpoint: chatUrl(endpoint),
    key: process.env[keyEnv],
    keyName: `$${keyEnv}`,
    parallel,
    requestsPerMinute,
    tokensPerMinute,
    retries,
    timeoutMs: 1000 * timeout,
    onRetry: (why: string, waitMs: number) => log(`${why}; again in ${formatDuration(waitMs / 1000)}`),
  };
}

/** Undefined without prices. */
function costOf({ promptPrice, answerPrice }: Options, prompt: number, answer: number): number | undefined {
  if (promptPrice === undefined && answerPrice === undefined) return undefined;
  return (prompt * (promptPrice ?? 0) + answer * (answerPrice ?? 0)) / 1e6;
}

function describeEstimate(
  e: ExplainEstimate,
  cost: number | undefined,
  { endpoint, model }: Options,
): string {
  const from = e.sampled < e.features ? `, estimated from ${e.sampled} of them` : "";
  const price = cost === undefined ? "" : `, at most ${cost.toFixed(2)} by the prices given`;
  return (
    `${formatCount(e.features)} features${from}: ${formatCount(e.requests)} requests to ${model} at ${endpoint} that are not ` +
    `answered yet, about ${formatCount(e.promptTokens)} prompt tokens and at most ${formatCount(e.completionTokens)} of answers${price}`
  );
}

function describeResult(result: ExplainResult, options: Options, seconds: number): string {
  const { explanations, skipped, failed, requests, promptTokens, completionTokens } = result;
  const scores = (kind: "detection" | "fuzzing") => {
    const values = explanations.flatMap((e) => e[kind]?.score ?? []);
    return values.length === 0 ? "" : `, median ${kind} ${median(values).toFixed(3)}`;
  };
  const lines = [
    `${explanations.length} features explained${scores("detection")}${scores("fuzzing")} ` +
      `(${formatCount(requests)} requests, ${formatCount(promptTokens)} + ${formatCount(completionTokens)} tokens, ${formatDuration(seconds)})`,
  ];
  if (skipped.length > 0)
    lines.push(
      `${skipped.length} with too few examples: ${skipped.slice(0, 10).join(", ")}${skipped.length > 10 ? " …" : ""}`,
    );
  if (failed.length > 0)
    lines.push(
      `${failed.length} without an explanation in the answer (the next run asks again): ${failed.slice(0, 10).join(", ")}${failed.length > 10 ? " …" : ""}`,
    );
  if (explanations.length > 0)
    lines.push(
      `Next: ${commandName()} features show ${explanations[0].feature} --features ${shellWord(options.features)}`,
    );
  return lines.join("\n");
}
