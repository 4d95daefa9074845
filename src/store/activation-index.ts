/**
 * index.json of an activation store: what the rows are and which shard holds which.
 * A folder holds one hook point; a harvest of several hook points is one subfolder per hook.
 */
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { z } from "zod";
import { openSafetensors } from "../formats/index.ts";
import { didYouMean, inputError, ioError, readJson, usageError } from "../util/index.ts";

export const INDEX_FILE = "index.json";
const SCHEMA = 1;

/** What identifies a store: a harvest resumes only into a folder with the same spec. */
const specShape = {
  /** Hook point, as in `blocks.3.hook_resid_post`. */
  hook: z.string().min(1),
  /** The model's name or path, `sha256:…` of its weights, and how they were held if not in f32. */
  model: z.object({ id: z.string(), hash: z.string(), dtype: z.enum(["f16", "bf16"]).optional() }),
  /** D, numbers per row. */
  width: z.int().positive(),
  dtype: z.enum(["f32", "f16"]),
  seed: z.int().nonnegative(),
  /** Where the text came from and how it was cut; any JSON. */
  source: z.json(),
};
const shardSchema = z.object({
  file: z.string().regex(/^shard-\d{5,}\.safetensors$/),
  rows: z.int().positive(),
  bytes: z.int().positive(),
  sha256: z.string().length(64),
  /** Document and position of the last row: a resumed harvest continues behind it. */
  last: z.object({ document: z.int(), position: z.int() }),
});
const indexSchema = z.object({
  schema: z.int(),
  kind: z.literal("sluice-activations"),
  ...specShape,
  rows: z.int().nonnegative(),
  complete: z.boolean(),
  /** Counts and remarks of the harvest, such as how many rows were filtered out. */
  notes: z.record(z.string(), z.json()),
  shards: z.array(shardSchema),
});

export type ActivationSpec = z.infer<z.ZodObject<typeof specShape>>;
export type ShardEntry = z.infer<typeof shardSchema>;
export type ActivationIndex = z.infer<typeof indexSchema>;

export function newIndex(spec: ActivationSpec): ActivationIndex {
  const parsed = z.object(specShape).safeParse(spec);
  if (!parsed.success) throw usageError(`activation store: ${z.prettifyError(parsed.error)}`);
  return {
    schema: SCHEMA,
    kind: "sluice-activations",
    ...parsed.data,
    rows: 0,
    complete: false,
    notes: {},
    shards: [],
  };
}

/** Reads and validates index.json of a folder. */
export function readIndex(folder: string): ActivationIndex {
  const file = path.join(folder, INDEX_FILE);
  const raw = readJson(file);
  const schema = (raw as { schema?: unknown } | null)?.schema;
  if (typeof schema === "number" && schema > SCHEMA) {
    throw inputError(`${file}: schema ${schema} is of a newer version of sluice; this one reads ${SCHEMA}`);
  }
  const parsed = indexSchema.safeParse(raw);
  if (!parsed.success) throw inputError(`${file}: not an activation index: ${z.prettifyError(parsed.error)}`);
  const index = parsed.data;
  const rows = index.shards.reduce((sum, shard) => sum + shard.rows, 0);
  if (rows !== index.rows) throw inputError(`${file}: says ${index.rows} rows, but its shards have ${rows}`);
  return index;
}

/** The folder of one hook point: `folder` itself, or its subfolder for `hook`. Names what is there when it is unclear. */
export function resolveFolder(folder: string, hook?: string): string {
  if (!fs.existsSync(folder)) throw ioError(`open the activations ${folder}`, { code: "ENOENT" });
  if (fs.existsSync(path.join(folder, INDEX_FILE))) {
    const found = readIndex(folder).hook;
    if (hook !== undefined && hook !== found) throw usageError(`${folder}: holds ${found}, not ${hook}`);
    return folder;
  }
  const hooks = fs.readdirSync(folder).filter((name) => fs.existsSync(path.join(folder, name, INDEX_FILE)));
  if (hooks.length === 0)
    throw inputError(`${folder}: no ${INDEX_FILE}; make activations with sluice harvest`);
  if (hook === undefined) {
    if (hooks.length === 1) return path.join(folder, hooks[0]);
    throw usageError(`${folder}: holds ${hooks.length} hook points; choose one of ${hooks.join(", ")}`);
  }
  if (!hooks.includes(hook)) throw usageError(`${folder}: no hook ${hook}${didYouMean(hook, hooks)}`);
  return path.join(folder, hook);
}

/** JSON with sorted keys, so that equal specs give equal text. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, v) =>
    v && typeof v === "object" && !Array.isArray(v)
      ? Object.fromEntries(Object.entries(v).sort(([a], [b]) => (a < b ? -1 : 1)))
      : v,
  );
}

const SPEC_KEYS = Object.keys(specShape) as (keyof ActivationSpec)[];

/** Short fingerprint of a spec; stands in every shard, so that a shard of another store is recognised. */
export function specId(spec: ActivationSpec): string {
  const text = canonical(Object.fromEntries(SPEC_KEYS.map((key) => [key, spec[key]])));
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

/** `hook is a, not b` for every field in which two specs differ. */
export function specDifferences(found: ActivationSpec, wanted: ActivationSpec): string[] {
  return SPEC_KEYS.filter((key) => canonical(found[key]) !== canonical(wanted[key])).map(
    (key) => `${key} is ${canonical(found[key])}, not ${canonical(wanted[key])}`,
  );
}

export async function sha256OfFile(file: string): Promise<string> {
  const hash = createHash("sha256");
  try {
    for await (const chunk of fs.createReadStream(file, { highWaterMark: 1 << 20 }))
      hash.update(chunk as Buffer);
  } catch (cause) {
    throw ioError(`read ${file}`, cause);
  }
  return hash.digest("hex");
}

/** The way out where a shard is not what was written. */
export const ANOTHER_COPY = "copy it again from where it came, or harvest into a new folder";

/** What must be true of a shard's header. Opens the file and leaves it open for the caller. */
export function openShard(folder: string, index: ActivationIndex, number: number) {
  const entry = index.shards[number];
  const file = path.join(folder, entry.file);
  const size = fs.statSync(file, { throwIfNoEntry: false })?.size;
  if (size === undefined) throw inputError(`${file}: this shard is missing; harvest again into a new folder`);
  if (size !== entry.bytes) {
    const what = size < entry.bytes ? "is truncated" : "is not the file of this store";
    throw inputError(
      `${file}: this shard ${what}: ${size} bytes, the index says ${entry.bytes}; ${ANOTHER_COPY}`,
    );
  }
  const shard = openSafetensors(file);
  try {
    const id = shard.metadata.sluice_store;
    if (id !== specId(index) || shard.metadata.shard !== String(number)) {
      throw inputError(
        `${file}: this shard belongs to another store (${shard.metadata.hook ?? "unknown hook"}, ` +
          `store ${id ?? "unknown"}, shard ${shard.metadata.shard ?? "?"}); this is store ${specId(index)}, shard ${number}`,
      );
    }
    checkTensor(file, shard.info("activations"), index.dtype, [entry.rows, index.width]);
    for (const name of ["tokens", "positions", "documents"]) {
      checkTensor(file, shard.info(name), "i32", [entry.rows]);
    }
    return shard;
  } catch (error) {
    shard.close();
    throw error;
  }
}

function checkTensor(
  file: string,
  info: { dtype: string; shape: readonly number[] },
  dtype: string,
  shape: readonly number[],
): void {
  if (info.dtype !== dtype || info.shape.join() !== shape.join()) {
    throw inputError(
      `${file}: this shard holds ${info.dtype} [${info.shape}], the index says ${dtype} [${shape}]`,
    );
  }
}

export const shardFile = (number: number): string => `shard-${String(number).padStart(5, "0")}.safetensors`;
