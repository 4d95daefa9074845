/**
 * Options that several commands have, and how they become devices, models and texts.
 */
import { z } from "zod";
import { findModel, type HubOptions } from "../../hub/index.ts";
import {
  type KvRoutingSpec,
  type LoadOptions,
  loadTransformer,
  type ResidualSpec,
  type Transformer,
} from "../../models/index.ts";
import {
  type LanguageModel,
  openLanguageModel,
  openTextTokens,
  type SaeEvalOptions,
  type SaeEvalPart,
  type TextTokens,
} from "../../recipes/index.ts";
import { createDevice, type Device, type DeviceOptions } from "../../tensor/index.ts";
import type { Split, Tokenizer } from "../../text/index.ts";
import { type Progress, usageError } from "../../util/index.ts";
import type { CommandContext } from "../command.ts";
import { kebab } from "../flags.ts";

export const count = () => z.number().int().min(1);

export const deviceFields = {
  backend: z
    .enum(["auto", "native", "ref"])
    .default("auto")
    .describe(
      "native: C++ kernels; ref: slow plain loops, for checking; auto: native if it was built, else ref",
    ),
  threads: count().optional().describe("threads of the native kernels [all cores]"),
};

/** Of `--text`. */
export const TEXTS =
  "corpora of the catalogue (see `sluice text list`), files (text, .jsonl, .parquet; .gz, .zst), folders, or " +
  "hf://datasets/org/name[@revision]/path on the hub, where the path may have *";

/** `split` is the one taken where none is named. */
export const textFields = (split: Split) => ({
  text: z.array(z.string()).optional().describe(TEXTS),
  field: z.string().optional().describe("JSON lines and Parquet: the field or column of the text [text]"),
  split: z
    .enum(["train", "heldout", "all"])
    .default(split)
    .describe("which documents; a fixed share of them is held out, never to be trained on"),
  context: z
    .number()
    .int()
    .min(2)
    .optional()
    .describe("tokens of a window, BOS included [the model's context]"),
});

/** Refuses options of reading text through a model that were given although the activations come from disk. */
export function refuseLiveFlags({ given }: CommandContext, more: readonly string[] = []): void {
  const found = ["field", "split", "context", "modelDtype", ...more].filter((name) => given.has(name));
  if (found.length === 0) return;
  const flags = found.map((name) => `--${kebab(name)}`).join(", ");
  throw usageError(`${flags}: only for --model and --text, not for --activations; leave it out`);
}

/** On stderr even with --quiet: it explains why everything takes so long. */
const warn = (message: string): void => void process.stderr.write(`sluice: ${message}\n`);

/** Runs `work` on a device that is closed afterwards. */
export async function withDevice<T>(
  { backend, threads }: Pick<DeviceOptions, "backend" | "threads">,
  work: (device: Device) => Promise<T>,
): Promise<T> {
  const device = await createDevice({ backend, threads, onFallback: warn });
  try {
    return await work(device);
  } finally {
    device.close();
  }
}

/** Of `--model`, with what the command wants it for. */
export const modelHelp = (what = ""): string => `model: a folder, or org/name[@revision] on the hub${what}`;

/** Downloads from the hub: a line of progress for each repository, Ctrl-C, messages. */
export function hubOptions(context: CommandContext): HubOptions {
  const lines = new Map<string, Progress>();
  return {
    signal: context.signal,
    log: context.log,
    onProgress({ repo, file, done, start, total }) {
      const line =
        lines.get(repo) ?? context.progress({ label: `downloading ${repo}`, unit: "bytes", total, start });
      lines.set(repo, line);
      line.update(done, { file });
      if (done < total) return;
      line.finish();
      lines.delete(repo);
    },
  };
}

/** A picture of what a command found, drawn after its numbers. */
export const pictureField = {
  picture: z
    .string()
    .regex(/[^/\\]\.svg$/i, "a path that ends in .svg was expected, such as out/picture.svg")
    .optional()
    .describe("also draw it, as an SVG file (.svg); its folder is made"),
};

/** How a model is held; with `--model`. */
export const modelFields = {
  modelDtype: z
    .enum(["f32", "f16", "bf16"])
    .default("f32")
    .describe("how the model's matrices are held; 16 bits halve its memory, arithmetic is f32 all the same"),
};

/** Which layers' keys and values a layer reads (LIMe). */
export const routingFields = (group: { group: string }) => ({
  kvRouting: z
    .enum(["none", "learned", "average", "hidden-static", "hidden-dynamic"])
    .default("none")
    .describe(
      "mix each layer's keys and values with those of the layers before it (LIMe): learned routers, or the mean; or make them " +
        "of mixtures of what enters the layers (LIMe's first version): fixed weights, or weights that depend on the token",
    )
    .meta(group),
  routingFirst: count()
    .optional()
    .describe("with --kv-routing: only the first so many layers, the one before, and its own [all]")
    .meta(group),
  routingPrevious: z
    .boolean()
    .default(true)
    .describe("with --routing-first: the layer before, too")
    .meta(group),
  routingLast: count()
    .optional()
    .describe("with --kv-routing: only the last so many layers, its own among them [all]")
    .meta(group),
  routingFrom: count()
    .optional()
    .describe("with --kv-routing: layers before this one, counted from 0, read their own only [1]")
    .meta(group),
  routingTopP: z
    .number()
    .gt(0)
    .lt(1)
    .optional()
    .describe(
      "with --kv-routing hidden-static: once trained, before the model is written, heads keep the fewest sources whose weights " +
        "sum to this [all sources]",
    )
    .meta(group),
});

export const routerStartField = (group: { group: string }) => ({
  routerIdentity: z
    .boolean()
    .default(true)
    .describe("routers begin as the identity on a layer's own heads, else random")
    .meta(group),
});

/** How what blocks add joins what came before. */
export const residualFields = (group: { group: string }) => ({
  residual: z
    .enum(["plain", "dense", "hyper"])
    .default("plain")
    .describe("plain: a sum; dense: DenseFormer's learned sum over all blocks; hyper: Hyper-Connections")
    .meta(group),
  streams: count().optional().describe("with --residual hyper: streams [4]").meta(group),
});

export function residualOf({
  residual: kind,
  streams,
}: {
  readonly residual: "plain" | ResidualSpec["kind"];
  readonly streams?: number;
}): ResidualSpec | undefined {
  if (kind === "hyper") return { kind, streams: streams ?? 4 };
  if (streams !== undefined) throw usageError("--streams goes with --residual hyper");
  return kind === "plain" ? undefined : { kind };
}

interface RoutingOptions {
  readonly kvRouting: "none" | KvRoutingSpec["kind"];
  readonly routingFirst?: number;
  readonly routingPrevious?: boolean;
  readonly routingLast?: number;
  readonly routingFrom?: number;
  readonly routingTopP?: number;
}

/** Flags of routers, and the kinds that they go with. */
const ROUTER_FLAGS = {
  routerLr: ["learned", "hidden-static", "hidden-dynamic"],
  routerIdentity: ["learned"],
} as const satisfies Record<string, readonly KvRoutingSpec["kind"][]>;

/** Refuses flags of routers where there are none that they go with. */
export function refuseRouterFlags(
  { kvRouting }: { readonly kvRouting: string },
  { given }: CommandContext,
  names: readonly (keyof typeof ROUTER_FLAGS)[],
): void {
  for (const name of names) {
    const kinds: readonly string[] = ROUTER_FLAGS[name];
    if (!given.has(name) || kinds.includes(kvRouting)) continue;
    throw usageError(`--${kebab(name)}: only with --kv-routing ${kinds.join("|")}; leave it out`);
  }
}

export function routingOf({
  kvRouting: kind,
  routingFirst: first,
  routingPrevious: previous = true,
  routingLast: last,
  routingFrom: from,
  routingTopP: topP,
}: RoutingOptions): KvRoutingSpec | undefined {
  if (first !== undefined && last !== undefined)
    throw usageError("--routing-first and --routing-last exclude each other; give one of them");
  if (!previous && first === undefined)
    throw usageError("--no-routing-previous goes with --routing-first; leave it out");
  if (topP !== undefined && kind !== "hidden-static")
    throw usageError("--routing-top-p goes with --kv-routing hidden-static; leave it out");
  if (kind === "none") {
    if ([first, last, from].every((flag) => flag === undefined)) return undefined;
    throw usageError(
      "--routing-first, --routing-last and --routing-from go with --kv-routing; name its kind",
    );
  }
  return {
    kind,
    ...(first !== undefined && { first }),
    ...(!previous && { previous }),
    ...(last !== undefined && { last }),
    ...(from !== undefined && { from }),
    ...(topP !== undefined && { topP }),
  };
}

/** Runs `work` with a model, of a folder or of the hub, that is freed afterwards. */
export async function withModel<T>(
  device: Device,
  { model, modelDtype }: { readonly model: string; readonly modelDtype?: LoadOptions["dtype"] },
  context: CommandContext,
  work: (lm: LanguageModel) => Promise<T>,
): Promise<T> {
  const lm = await openLanguageModel(device, model, { dtype: modelDtype, hub: hubOptions(context) });
  try {
    return await work(lm);
  } finally {
    lm.model.dispose();
  }
}

/** The same for a model that needs no tokenizer. */
export async function withTransformer<T>(
  device: Device,
  spec: string,
  context: CommandContext,
  work: (model: Transformer) => Promise<T>,
): Promise<T> {
  const { folder } = (await findModel(spec, hubOptions(context))) ?? { folder: spec };
  const model = await loadTransformer(device, folder);
  try {
    return await work(model);
  } finally {
    model.dispose();
  }
}

/**
 * Runs `work` with a text's tokens, shown being made if they are not in the cache, closed afterwards. Those of a text of the hub
 * are made while `work` reads them: each time a line of its own, ended when the work goes on.
 */
export async function withTokens<T>(
  options: { text: readonly string[]; field?: string; split: Split },
  tokenizer: Tokenizer,
  context: CommandContext,
  work: (tokens: TextTokens) => Promise<T>,
): Promise<T> {
  const label = `tokenizing ${options.text.join(", ")}`;
  let progress: Progress | undefined;
  const tokens = await openTextTokens({
    ...options,
    tokenizer,
    hub: hubOptions(context),
    signal: context.signal,
    log: context.log,
    onProgress: (p) => {
      progress ??= context.progress({ label, unit: "tokens", start: p.before });
      progress.update(p.tokens);
      if (!p.done) return;
      progress.finish();
      progress = undefined;
    },
  });
  try {
    return await work(tokens);
  } finally {
    tokens.close();
  }
}

const LABELS: Record<SaeEvalPart, string> = {
  mean: "taking the mean",
  activations: "measuring reconstructions",
  model: "measuring the model",
};

/** One line for each part of the evaluation. */
export function evalProgress(context: CommandContext) {
  let line: Progress | undefined;
  let current: SaeEvalPart | undefined;
  const finish = (): void => line?.finish();
  const onProgress: SaeEvalOptions["onProgress"] = ({ part, tokens, total }) => {
    if (part !== current) {
      finish();
      line = context.progress({ label: LABELS[part], unit: "tokens", total });
      current = part;
    }
    line?.update(tokens);
  };
  return { onProgress, finish };
}

/** Rows of cells under each other: so many columns begin together, the others end together. */
export function columnsOf(rows: readonly (readonly string[])[], { left = 0 } = {}): string {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)));
  return rows
    .map((row) =>
      row
        .map((text, i) => (i < left ? text.padEnd(widths[i]) : text.padStart(widths[i])))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
