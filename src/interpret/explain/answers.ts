/**
 * Every answer that was paid for, in one file of JSON lines, by what was asked: a question is put to a server once, whatever
 * happens to the process.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { type JsonLines, openJsonLines, readJsonLines } from "../../util/index.ts";
import type { ChatAnswer, ChatRequest } from "./chat.ts";

interface Line extends ChatAnswer {
  readonly key: string;
}

export class Answers {
  readonly #path: string;
  readonly #known = new Map<string, ChatAnswer>();
  #file: JsonLines | undefined;

  constructor(path: string) {
    this.#path = path;
    if (!existsSync(path)) return;
    for (const { key, ...answer } of readJsonLines(path) as Line[]) this.#known.set(key, answer);
  }

  get(request: ChatRequest): ChatAnswer | undefined {
    return this.#known.get(keyOf(request));
  }

  add(request: ChatRequest, answer: ChatAnswer): void {
    const key = keyOf(request);
    this.#file ??= openJsonLines(this.#path); // drops a line that a crash cut off
    this.#file.append({ key, ...answer } satisfies Line);
    this.#known.set(key, answer);
  }

  close(): void {
    this.#file?.close();
  }
}

const keyOf = (request: ChatRequest): string =>
  createHash("sha256").update(JSON.stringify(request)).digest("hex").slice(0, 32);
