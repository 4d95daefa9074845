/**
 * The files of a language model on the hub: config, tokenizer, weights in safetensors, and nothing else of the repository; or
 * its tokenizer alone.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { inputError, readJson, SluiceError } from "../util/index.ts";
import type { RepoFile } from "./cache.ts";
import { type HubOptions, openRepo, type Repo } from "./repo.ts";
import { parseModelId, type RepoId, showRepo } from "./repo-id.ts";

const TOKENIZER = "tokenizer.json";
const REQUIRED = ["config.json", TOKENIZER];
/** Beside tokenizer.json: names of special tokens, and the chat template. */
const TOKENIZER_EXTRAS = ["tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];
const OPTIONAL = ["generation_config.json", ...TOKENIZER_EXTRAS];
const WEIGHTS = "model.safetensors";
const INDEX = "model.safetensors.index.json";

/** A model's files on this machine. */
export interface ModelFiles {
  readonly folder: string;
  /** What to call it: `org/name`. */
  readonly name: string;
}

/** A model by its hub id, downloaded where it is not in the cache; undefined for a path that exists. */
export const findModel = (spec: string, options: HubOptions = {}): Promise<ModelFiles | undefined> =>
  find(spec, options, fetchFiles);

/** The same of its tokenizer's files; the model's weights are left where they are. */
export const findTokenizer = (spec: string, options: HubOptions = {}): Promise<ModelFiles | undefined> =>
  find(spec, options, fetchTokenizer);

async function find(
  spec: string,
  options: HubOptions,
  fetch: (repo: Repo) => Promise<string>,
): Promise<ModelFiles | undefined> {
  if (existsSync(spec)) return undefined;
  const id = parseModelId(spec);
  if (!id) {
    throw inputError(
      `there is no folder ${spec}, and it is no id of the hub, which has an owner: org/name or org/name@revision`,
    );
  }
  const repo = await openRepo(id, options).catch((error: Error) => {
    if (!(error instanceof SluiceError) || error.code === "interrupted") throw error;
    throw new SluiceError(error.code, `there is no folder ${spec}, and ${error.message}`, { cause: error });
  });
  return { folder: await fetch(repo), name: id.name };
}

/** The folder with a model's files, in the cache. */
export async function fetchModel(id: RepoId, options: HubOptions = {}): Promise<string> {
  return fetchFiles(await openRepo(id, options));
}

async function fetchFiles(repo: Repo): Promise<string> {
  const files = await repo.list();
  const named = (names: readonly string[]) => files.filter(({ path }) => names.includes(path));
  const small = named([...REQUIRED, ...OPTIONAL]);
  const absent = REQUIRED.filter((name) => !small.some(({ path }) => path === name));
  const weights = named([WEIGHTS]);
  const index = weights.length > 0 ? [] : named([INDEX]);
  if (weights.length + index.length === 0) absent.push(repo.offline ? `${WEIGHTS} or ${INDEX}` : WEIGHTS);
  if (absent.length > 0) throw unusable(repo, files, absent);
  await repo.fetch(index);
  return repo.fetch([...small, ...index, ...weights, ...(index.length > 0 ? shardsOf(repo, files) : [])]);
}

/** What `loadTokenizer` reads. The config is there for the special tokens that old tokenizers do not name. */
async function fetchTokenizer(repo: Repo): Promise<string> {
  const files = await repo.list();
  const wanted = files.filter(({ path }) => ["config.json", TOKENIZER, ...TOKENIZER_EXTRAS].includes(path));
  if (!wanted.some(({ path }) => path === TOKENIZER)) throw unusable(repo, files, [TOKENIZER]);
  return repo.fetch(wanted);
}

/** The shards that the index names. */
function shardsOf(repo: Repo, files: readonly RepoFile[]): RepoFile[] {
  const map = (readJson(join(repo.folder, INDEX)) as { weight_map?: Record<string, string> }).weight_map;
  const names = [...new Set(Object.values(map ?? {}))].sort();
  const shards = names.map((name) => files.find(({ path }) => path === name));
  const absent = names.filter((_, i) => shards[i] === undefined);
  if (absent.length > 0) throw repo.missing(absent);
  return shards as RepoFile[];
}

function unusable(repo: Repo, files: readonly RepoFile[], absent: readonly string[]): Error {
  if (repo.offline || absent.includes("config.json")) return repo.missing(absent);
  const other = files.find(({ path }) => /\.(bin|pth?|gguf|msgpack|h5)$/.test(path))?.path;
  const hint = absent.includes(WEIGHTS)
    ? other && `; ${other} is not readable here: convert it with save_pretrained(safe_serialization=True)`
    : "; convert its tokenizer with AutoTokenizer.from_pretrained(…).save_pretrained(…)";
  return inputError(`${showRepo(repo.id)} has no ${absent.join(", no ")}${hint ?? ""}`);
}
