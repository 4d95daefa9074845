/**
 * A client of OpenAI-compatible servers: POST {endpoint}/chat/completions, with what real servers need: pacing, a limit of
 * requests at a time, and patience with those that are overloaded or break off.
 */
import { inputError, interruptedError, SluiceError, usageError } from "../../util/index.ts";

export interface ChatMessage {
  readonly role: "system" | "user";
  readonly content: string;
}

/** The body of a request; further fields go to the server as they are. */
export interface ChatRequest {
  readonly model: string;
  readonly messages: readonly ChatMessage[];
  readonly [field: string]: unknown;
}

export interface ChatAnswer {
  readonly content: string;
  /** As the server counted; 0 where it does not say. */
  readonly promptTokens: number;
  readonly completionTokens: number;
}

export interface ChatOptions {
  /** With or without `/chat/completions` at its end. */
  readonly endpoint: string;
  /** Sent as bearer token. */
  readonly key?: string;
  /** Where the key came from, for messages. */
  readonly keyName?: string;
  /** Requests under way at a time; default 4. */
  readonly parallel?: number;
  readonly requestsPerMinute?: number;
  /** Of prompts (4 bytes a token) and answers (what they may have at most). */
  readonly tokensPerMinute?: number;
  /** Attempts after the first; default 6. */
  readonly retries?: number;
  /** First wait before another attempt, doubled each time up to a minute; default one second. */
  readonly backoffMs?: number;
  /** For one attempt; default two minutes. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
  /** Told why an attempt failed and how long is waited. */
  readonly onRetry?: (why: string, waitMs: number) => void;
}

/** A server that wants a longer pause is asked another day. */
const LONGEST_WAIT_MS = 10 * 60_000;
const LONGEST_BACKOFF_MS = 60_000;
/** Bytes of a token, for estimates; English text has four to five. */
const TOKEN_BYTES = 4;

/** An attempt that may be repeated. */
class Passing extends Error {
  /** What the server asked for. */
  readonly waitMs: number | undefined;

  constructor(message: string, waitMs?: number) {
    super(message);
    this.waitMs = waitMs;
  }
}

/** Tokens of a request's messages, estimated from their length. */
export function estimateTokens(messages: readonly ChatMessage[]): number {
  const bytes = messages.reduce((sum, m) => sum + Buffer.byteLength(m.content), 0);
  return Math.ceil(bytes / TOKEN_BYTES) + 4 * messages.length;
}

export class ChatClient {
  readonly url: string;
  readonly #options: ChatOptions;
  #running = 0;
  readonly #waiting: (() => void)[] = [];
  /** Time from which on the next request may start: pacing, and pauses that the server asked for. */
  #next = 0;

  constructor(options: ChatOptions) {
    this.url = chatUrl(options.endpoint);
    this.#options = options;
  }

  /** The answer to one request. Throws when the server refuses it, or has failed too often. */
  async complete(request: ChatRequest): Promise<ChatAnswer> {
    const { parallel = 4 } = this.#options;
    if (this.#running >= parallel) await new Promise<void>((go) => this.#waiting.push(go));
    else this.#running++;
    try {
      return await this.#insist(request);
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#running--;
    }
  }

  async #insist(request: ChatRequest): Promise<ChatAnswer> {
    const { retries = 6, backoffMs = 1000, onRetry } = this.#options;
    for (let attempt = 0; ; attempt++) {
      await this.#pace(request);
      try {
        return await this.#attempt(request);
      } catch (error) {
        if (!(error instanceof Passing)) throw error;
        if (attempt === retries) {
          const tried =
            attempt === 0 ? "the only attempt failed" : `${attempt + 1} attempts failed, the last one`;
          throw new SluiceError(
            "io",
            `${this.url}: ${tried} with: ${error.message}; is the server well? The same command goes on from here`,
          );
        }
        const backoff = Math.min(LONGEST_BACKOFF_MS, backoffMs * 2 ** attempt) * (0.75 + Math.random() / 2);
        const wait = error.waitMs ?? backoff;
        if (wait > LONGEST_WAIT_MS) {
          throw new SluiceError(
            "io",
            `${this.url} asks to wait ${Math.ceil(wait / 1000)} s (${error.message}); run the same command later, it goes on from here`,
          );
        }
        onRetry?.(error.message, wait);
        // What a server asks for concerns all requests, a single failure only its own.
        if (error.waitMs !== undefined) this.#next = Math.max(this.#next, Date.now() + wait);
        else await this.#sleep(wait);
      }
    }
  }

  /** Waits for this request's turn. */
  async #pace(request: ChatRequest): Promise<void> {
    const { requestsPerMinute = 0, tokensPerMinute = 0 } = this.#options;
    const tokens = estimateTokens(request.messages) + Number(request.max_tokens ?? 0);
    const gap = Math.max(
      requestsPerMinute > 0 ? 60_000 / requestsPerMinute : 0,
      tokensPerMinute > 0 ? (60_000 * tokens) / tokensPerMinute : 0,
    );
    for (;;) {
      const wait = this.#next - Date.now();
      if (wait <= 0) break;
      await this.#sleep(wait);
    }
    this.#next = Date.now() + gap;
  }

  async #attempt(request: ChatRequest): Promise<ChatAnswer> {
    const { key, timeoutMs = 120_000, signal } = this.#options;
    const controller = new AbortController();
    const abort = () => controller.abort();
    const timer = setTimeout(abort, timeoutMs);
    signal?.addEventListener("abort", abort, { once: true });
    let status: number;
    let headers: Headers;
    let text: string;
    try {
      this.#checkSignal();
      const response = await fetch(this.url, {
        method: "POST",
        headers: { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) },
        body: JSON.stringify(request),
        signal: controller.signal,
      });
      ({ status, headers } = response);
      text = await response.text();
    } catch (cause) {
      this.#checkSignal();
      if (controller.signal.aborted) throw new Passing(`no answer within ${timeoutMs / 1000} s`);
      throw new Passing(reasonOf(cause));
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
    if (status === 200) return parseAnswer(text);
    if (status >= 500 || [408, 409, 425, 429].includes(status))
      throw new Passing(`status ${status}${messageIn(text)}`, retryAfter(headers));
    throw this.#refusal(status, text, request.model);
  }

  #refusal(status: number, text: string, model: string): Error {
    const { key, keyName = "the key's variable" } = this.#options;
    const said = `${this.url} answered ${status}${messageIn(text)}`;
    if (status === 401 || status === 403) {
      const state = key ? `the key in ${keyName} was not accepted` : `${keyName} is not set`;
      return inputError(`${said}; ${state}: set it, or name another variable with --key-env`);
    }
    if (status === 404) {
      return inputError(`${said}; is the endpoint right, up to /v1, and is there a model "${model}"?`);
    }
    return inputError(`${said}; fields that the server does not take can be changed with --body`);
  }

  #checkSignal(): void {
    if (this.#options.signal?.aborted)
      throw interruptedError("interrupted; all answers are kept, and the same command goes on from there");
  }

  /** Ends early when the signal is raised. */
  async #sleep(ms: number): Promise<void> {
    const { signal } = this.#options;
    this.#checkSignal();
    await new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      signal?.addEventListener("abort", done, { once: true });
    });
    this.#checkSignal();
  }
}

/** The address that requests go to; refuses what is none. */
export function chatUrl(endpoint: string): string {
  let url: URL;
  try {
    url = new URL(endpoint);
  } catch {
    throw usageError(`--endpoint ${endpoint}: not a URL; expected one such as http://localhost:8000/v1`);
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw usageError(`--endpoint ${endpoint}: must begin with http:// or https://`);
  }
  const path = url.pathname.replace(/\/+$/, "");
  url.pathname = path.endsWith("/chat/completions") ? path : `${path}/chat/completions`;
  return url.href;
}

/** The first choice's text. What is no such answer may be one at the next attempt. */
function parseAnswer(text: string): ChatAnswer {
  let body: {
    choices?: { message?: { content?: unknown } }[];
    usage?: { prompt_tokens?: unknown; completion_tokens?: unknown };
  } | null;
  try {
    body = JSON.parse(text);
  } catch {
    throw new Passing(`the answer is not JSON: ${excerpt(text)}`);
  }
  const content = body?.choices?.[0]?.message?.content;
  if (typeof content !== "string") throw new Passing(`the answer has no message: ${excerpt(text)}`);
  const count = (n: unknown) => (typeof n === "number" && Number.isFinite(n) ? n : 0);
  return {
    content,
    promptTokens: count(body?.usage?.prompt_tokens),
    completionTokens: count(body?.usage?.completion_tokens),
  };
}

const excerpt = (text: string): string => JSON.stringify(text.slice(0, 120));

/** What the server says about an error, `: …`, or nothing. */
function messageIn(text: string): string {
  try {
    const body = JSON.parse(text) as { error?: { message?: unknown } | string; message?: unknown };
    const message = typeof body.error === "string" ? body.error : (body.error?.message ?? body.message);
    if (typeof message === "string") return `: ${message.slice(0, 300)}`;
  } catch {
    // no JSON: the text itself is shown
  }
  return text.trim() === "" ? "" : `: ${excerpt(text)}`;
}

/** Milliseconds of `Retry-After`, in seconds or as a date; undefined if there is none. */
function retryAfter(headers: Headers): number | undefined {
  const value = headers.get("retry-after");
  if (value === null) return undefined;
  const wait = /^\s*\d+(\.\d+)?\s*$/.test(value) ? 1000 * Number(value) : Date.parse(value) - Date.now();
  return Number.isFinite(wait) ? Math.max(0, wait) : undefined;
}

/** `fetch failed` says nothing; its cause does. */
function reasonOf(error: unknown): string {
  const { message, cause } = error as Error & { cause?: { code?: string; message?: string } };
  const why = cause?.code ?? cause?.message;
  return why ? `${message} (${why})` : message;
}
