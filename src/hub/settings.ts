/**
 * Where the hub is, where its files are kept and who asks: the environment variables of Python's huggingface_hub.
 */
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { getHFHubCachePath, HUB_URL } from "@huggingface/hub";
import { usageError } from "../util/errors.ts";

export interface HubSettings {
  /** HF_ENDPOINT, else the public hub; without a final slash. */
  readonly endpoint: string;
  /** HF_TOKEN, else the file that logging in writes (HF_TOKEN_PATH, or `token` in HF_HOME). */
  readonly token?: string;
  /** HF_HUB_CACHE, else `hub` in HF_HOME, else in ~/.cache/huggingface. */
  readonly cacheDir: string;
  /** HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE): only what is in the cache. */
  readonly offline: boolean;
}

const isTrue = (value: string | undefined): boolean => /^(1|on|yes|true)$/i.test(value ?? "");

const expandHome = (path: string): string => path.replace(/^~(?=$|[/\\])/, homedir());

/** The settings of this process's environment, with some of them given. */
export function hubSettings(given: Partial<HubSettings> = {}): HubSettings {
  const { env } = process;
  const endpoint = (given.endpoint ?? (env.HF_ENDPOINT || HUB_URL)).replace(/\/+$/, "");
  if (!/^https?:\/\/[^/]+/.test(endpoint))
    throw usageError(`HF_ENDPOINT=${endpoint}: an address was expected, as in ${HUB_URL}`);
  const token = given.token ?? findToken();
  if (token !== undefined && !/^[\x21-\x7e]*$/.test(token))
    throw usageError(
      "the token of the hub (HF_TOKEN, or the file of `hf auth login`) holds blanks or signs that no token has",
    );
  return {
    endpoint,
    token,
    cacheDir: given.cacheDir ?? expandHome(getHFHubCachePath()),
    offline: given.offline ?? (isTrue(env.HF_HUB_OFFLINE) || isTrue(env.TRANSFORMERS_OFFLINE)),
  };
}

function findToken(): string | undefined {
  const { HF_TOKEN, HUGGING_FACE_HUB_TOKEN, HF_TOKEN_PATH, HF_HOME, XDG_CACHE_HOME } = process.env;
  const named = (HF_TOKEN || HUGGING_FACE_HUB_TOKEN)?.trim();
  if (named) return named;
  const home = HF_HOME || join(XDG_CACHE_HOME || join(homedir(), ".cache"), "huggingface");
  try {
    return readFileSync(expandHome(HF_TOKEN_PATH || join(home, "token")), "utf8").trim() || undefined;
  } catch {
    return undefined; // nobody logged in
  }
}
