/**
 * Progress for people, on stderr: one line rewritten in place on a terminal, now and then a plain line elsewhere.
 */
import { formatCount, formatDuration } from "./format.ts";

export interface ProgressStream {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

export interface ProgressOptions {
  /** What is going on, as in `training`. */
  label: string;
  /** What is counted, as in `tokens`. */
  unit: string;
  /** How many there will be; without it there is no percentage and no time left. */
  total?: number;
  /** Done before this run began (resumed work does not count towards the rate). */
  start?: number;
  stream?: ProgressStream;
  /** Milliseconds between lines: 100 on a terminal, 10,000 elsewhere. */
  intervalMs?: number;
  /** Clock in milliseconds. */
  now?: () => number;
}

export interface Progress {
  /** `done` counts from the very beginning; `details` follow the line, as in `{ loss: '0.123' }`. */
  update(done: number, details?: Readonly<Record<string, string | number>>): void;
  /** Writes the last state, whatever the clock says, and ends the line. */
  finish(details?: Readonly<Record<string, string | number>>): void;
}

/** A progress that says nothing. */
export const silentProgress: Progress = { update() {}, finish() {} };

/** The rate is that of the last half minute or so, so that a slow start is soon forgotten. */
const WINDOW_MS = 30_000;
/** Over less time than this a rate means nothing. */
const LEAST_MS = 50;

export function createProgress(options: ProgressOptions): Progress {
  const { label, unit, total, start = 0, stream = process.stderr, now = () => performance.now() } = options;
  const interval = options.intervalMs ?? (stream.isTTY ? 100 : 10_000);
  const began = now();
  const marks: { at: number; done: number }[] = [{ at: began, done: start }];
  let last = -Infinity;
  let done = start;
  let shown: Readonly<Record<string, string | number>> = {};
  let written = Number.NaN;

  function line(at: number): string {
    const oldest = marks[0];
    const rate = at - oldest.at >= LEAST_MS ? ((done - oldest.done) / (at - oldest.at)) * 1000 : 0;
    const parts = [label];
    if (total) {
      parts.push(
        `${Math.min(100, Math.floor((100 * done) / total))}%`,
        `${formatCount(done)}/${formatCount(total)} ${unit}`,
      );
    } else parts.push(`${formatCount(done)} ${unit}`);
    if (rate > 0) parts.push(`${formatCount(rate)} ${unit}/s`);
    if (total && rate > 0 && done < total) parts.push(`${formatDuration((total - done) / rate)} left`);
    for (const [name, value] of Object.entries(shown)) {
      parts.push(`${name} ${typeof value === "number" ? formatCount(value) : value}`);
    }
    return parts.join("  ");
  }

  function show(at: number): void {
    last = at;
    written = done;
    const text = line(at);
    if (stream.isTTY) stream.write(`\r\x1b[K${text.slice(0, (stream.columns ?? 120) - 1)}`);
    else stream.write(`${text}\n`);
  }

  return {
    update(count, details) {
      done = count;
      if (details) shown = details;
      const at = now();
      if (at - last < interval) return;
      marks.push({ at, done });
      while (marks.length > 2 && at - marks[1].at > WINDOW_MS) marks.shift();
      show(at);
    },
    finish(details) {
      if (details) shown = details;
      const at = now();
      marks.splice(0, marks.length, { at: began, done: start });
      if (stream.isTTY || done !== written) show(at);
      stream.write(stream.isTTY ? `\n` : `${label}: done in ${formatDuration((at - began) / 1000)}\n`);
    },
  };
}
