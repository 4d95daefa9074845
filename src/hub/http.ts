/**
 * Requests to the hub: the token goes to the hub's own address only, redirects are followed by hand, what passes (429, 5xx, a
 * lost connection) is tried again a few times, what does not becomes an error that says what to do.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { inputError, interruptedError, SluiceError } from "../util/errors.ts";
import { formatDuration } from "../util/format.ts";
import { proxiedFetch, proxyFor, showProxy } from "./proxy.ts";
import { type RepoId, showRepo } from "./repo-id.ts";
import type { HubSettings } from "./settings.ts";

export interface HttpOptions {
  readonly settings: HubSettings;
  readonly signal?: AbortSignal;
  /** One line for each thing that takes time or is not as it should be. */
  readonly log?: (line: string) => void;
  /** First wait before another try, doubled each time; default 1000. */
  readonly backoffMs?: number;
  /** Tries in a row that brought nothing, before giving up; default 5. */
  readonly mostTries?: number;
  /** The same of tries that found no network; default as `mostTries`. */
  readonly mostConnects?: number;
  /** Without a byte for so long, a connection counts as lost; default 30,000. */
  readonly idleMs?: number;
}

/** What a request is for, as errors say it. */
export interface Purpose {
  readonly repo: RepoId;
  readonly file?: string;
}

export const MOST_TRIES = 5;
/** The hub may ask to wait; longer than this is left to the user. */
const LONGEST_WAIT_MS = 120_000;
const MOST_REDIRECTS = 10;
const PASSING = new Set([408, 429, 500, 502, 503, 504]);

/** A response with its body still to be read, under a watch that aborts a body which no longer comes. */
export interface Answer {
  readonly response: Response;
  /** To be called for each piece of the body that came. */
  alive(): void;
  /** To be called when the body is read or given up. */
  done(): void;
}

/** A response that is whole or partial (2xx, 416); anything else throws. The caller reads the body and calls `done`. */
export async function request(
  url: string,
  purpose: Purpose,
  options: HttpOptions,
  init: { method?: string; headers?: Record<string, string>; body?: string } = {},
): Promise<Answer> {
  const { mostTries = MOST_TRIES, mostConnects = mostTries } = options;
  for (let tries = 1; ; tries++) {
    const watch = idleWatch(options);
    let wait: number;
    let why: string;
    try {
      const response = await follow(url, init, options.settings, watch.signal);
      if (!PASSING.has(response.status)) {
        if (response.ok || response.status === 416) return { response, ...watch };
        throw await refusal(response, purpose, options.settings);
      }
      await response.body?.cancel().catch(() => {});
      wait = askedWait(response) ?? backoff(tries, options);
      why = `answered ${response.status}${response.status === 429 ? " (too many requests)" : ""}`;
    } catch (cause) {
      watch.done();
      throwIfInterrupted(options.signal);
      if (cause instanceof SluiceError) throw cause;
      if (tries >= mostConnects) throw unreachable(options.settings, cause);
      wait = backoff(tries, options);
      why = `could not be reached (${reasonOf(cause)})`;
    }
    watch.done();
    if (tries >= mostTries || wait > LONGEST_WAIT_MS) {
      const later = wait > LONGEST_WAIT_MS ? ` and asks to wait ${formatDuration(wait / 1000)}` : "";
      throw new SluiceError(
        "io",
        `${options.settings.endpoint} ${why}${later}, ${tries} time${tries > 1 ? "s" : ""} for ${nameOf(purpose)}; try again later, what was downloaded is kept`,
        { cause: new Unreachable(why) },
      );
    }
    options.log?.(`${options.settings.endpoint} ${why}; trying again in ${formatDuration(wait / 1000)}`);
    await pause(wait, options.signal);
  }
}

/** `fetch` for @huggingface/hub: the same rules, and answers that are no success throw here. */
export function hubFetch(purpose: Purpose, options: HttpOptions): typeof fetch {
  return async (input, init = {}) => {
    const headers = Object.fromEntries(new Headers(init.headers));
    const asked = { method: init.method, headers, body: init.body as string | undefined };
    const url = atEndpoint(String(input), options.settings);
    for (let tries = 1; ; tries++) {
      const answer = await request(url, purpose, options, asked);
      try {
        const { status, headers } = answer.response;
        return new Response(await textOf(answer), { status, headers: [...headers] });
      } catch (cause) {
        throwIfInterrupted(options.signal);
        if (tries >= (options.mostTries ?? MOST_TRIES)) throw unreachable(options.settings, cause);
        options.log?.(
          `${options.settings.endpoint}: the connection was lost (${reasonOf(cause)}); trying again`,
        );
        await pause(backoff(tries, options), options.signal);
      } finally {
        answer.done();
      }
    }
  };
}

/** The next page of a listing is named by the hub's own address, also where a mirror (HF_ENDPOINT) passes it on. */
function atEndpoint(url: string, { endpoint }: HubSettings): string {
  const { origin, pathname, search } = new URL(url);
  return origin !== new URL(endpoint).origin && pathname.startsWith("/api/")
    ? `${endpoint}${pathname}${search}`
    : url;
}

/** The whole body; slow is not silent. */
async function textOf({ response, alive }: Answer): Promise<string> {
  const pieces: Uint8Array[] = [];
  for await (const piece of response.body ?? []) {
    alive();
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString("utf8");
}

/** Waits before try `tries` + 1. */
export const backoff = (tries: number, { backoffMs = 1000 }: Pick<HttpOptions, "backoffMs">): number =>
  backoffMs * 2 ** (tries - 1);

export async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => {});
  throwIfInterrupted(signal);
}

function throwIfInterrupted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw interruptedError("interrupted; what was downloaded is kept");
}

/** Follows redirects; the token goes only where the hub itself is. */
async function follow(
  url: string,
  init: { method?: string; headers?: Record<string, string>; body?: string },
  { endpoint, token }: HubSettings,
  signal: AbortSignal,
): Promise<Response> {
  let at = new URL(url);
  for (let hops = 0; hops <= MOST_REDIRECTS; hops++) {
    const headers = new Headers(init.headers);
    headers.set("user-agent", "sluice");
    headers.delete("authorization");
    if (token && at.origin === new URL(endpoint).origin) headers.set("authorization", `Bearer ${token}`);
    const response = await proxiedFetch(at, { ...init, headers, signal, redirect: "manual" });
    const target = response.headers.get("location");
    if (response.status < 300 || response.status >= 400 || target === null) return response;
    await response.body?.cancel().catch(() => {});
    at = new URL(target, at);
    if (at.protocol !== "https:" && at.protocol !== "http:") break;
  }
  throw new SluiceError(
    "io",
    `${url} leads on and on (more than ${MOST_REDIRECTS} redirects); is HF_ENDPOINT right?`,
  );
}

/** Aborts what it watches when no byte came for a while, or when the user stops. */
function idleWatch({ signal, idleMs = 30_000 }: HttpOptions) {
  const watch = new AbortController();
  const stop = () => watch.abort(signal?.reason);
  const timer = setTimeout(() => watch.abort(new Error(`nothing came for ${idleMs / 1000} s`)), idleMs);
  if (signal?.aborted) stop();
  signal?.addEventListener("abort", stop);
  return {
    signal: watch.signal,
    alive: () => void timer.refresh(),
    done() {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
    },
  };
}

/** Milliseconds that `Retry-After` asks for: seconds, or a date. */
function askedWait(response: Response): number | undefined {
  const asked = response.headers.get("retry-after")?.trim();
  if (!asked) return undefined;
  const ms = /^\d+$/.test(asked) ? 1000 * Number(asked) : Date.parse(asked) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}

/** The innermost reason of a failed `fetch`: the system's code, or undici's sentence. */
export function reasonOf(cause: unknown): string {
  const error = cause as { message?: string; code?: string; cause?: unknown } | undefined;
  if (error?.cause instanceof Error) return reasonOf(error.cause);
  const code = error?.code?.startsWith("UND_ERR") ? undefined : error?.code;
  return code ?? (error?.message || String(cause));
}

/** The error of a hub that gave no answer; `isUnreachable` knows it again. */
function unreachable({ endpoint }: HubSettings, cause: unknown): SluiceError {
  const proxy = proxyFor(new URL(endpoint));
  const reason = reasonOf(cause);
  const check = proxy
    ? `check ${showProxy(proxy)}${/\b407\b/.test(reason) ? ", which wants a name and password (http://name:password@host:port)" : ""}`
    : "check the network";
  return new SluiceError(
    "io",
    `${endpoint} could not be reached (${reason}); ${check}, or set HF_HUB_OFFLINE=1 to use only what is in the cache`,
    { cause: new Unreachable(reason) },
  );
}

class Unreachable extends Error {}
/** Whether the hub gave no answer, or none but that it cannot now. */
export const isUnreachable = (error: unknown): boolean =>
  (error as Error | undefined)?.cause instanceof Unreachable;

const nameOf = ({ repo, file }: Purpose): string => `${showRepo(repo)}${file ? `, ${file}` : ""}`;

/** What a refusal means, and the way out. */
async function refusal(response: Response, purpose: Purpose, settings: HubSettings): Promise<SluiceError> {
  const { repo, file } = purpose;
  const code = response.headers.get("x-error-code") ?? "";
  const said = `${response.headers.get("x-error-message") ?? ""} ${(await response.text().catch(() => "")).slice(0, 2000)}`;
  const what = `${repo.type} ${repo.name}`;
  const page = `${settings.endpoint}/${repo.type === "dataset" ? "datasets/" : ""}${repo.name}`;
  const logIn = settings.token
    ? "the token that was sent (HF_TOKEN, or that of `hf auth login`) does not give access to it"
    : `make a token at ${settings.endpoint}/settings/tokens and log in: HF_TOKEN=hf_…, or \`hf auth login\``;
  switch (response.status) {
    case 401:
    case 403:
      if (code === "GatedRepo" || /gated|restricted/i.test(said)) {
        return inputError(`the ${what} is gated: ask for access on ${page}; ${logIn}`);
      }
      return inputError(
        `the hub refused the ${what} (${response.status}): there is none of this name, or it is private or gated (see ${page}); ${logIn}`,
      );
    case 404:
      if (code === "EntryNotFound" || (code === "" && file !== undefined))
        return inputError(`${showRepo(repo)} has no file ${file ?? "or folder of this name"}`);
      if (code === "RevisionNotFound" || /revision|invalid rev/i.test(said)) {
        return inputError(
          `the ${what} has no revision "${repo.revision}"; a branch, a tag or a whole commit hash was expected (see ${page})`,
        );
      }
      return inputError(`the hub has no ${what}; check the name at ${settings.endpoint}`);
    default:
      return new SluiceError(
        "io",
        `${new URL(response.url || settings.endpoint).host} answered ${response.status} for ${nameOf(purpose)}: ${said.trim().slice(0, 200) || response.statusText}`,
      );
  }
}
