/**
 * The one error class. A message names the value, what was expected and the way out; the code says whose move it is.
 */

/**
 * usage: the caller asked for something impossible. input: a file or text is bad. io: the disk or the network refused.
 * interrupted: stopped on request, progress saved. numeric: NaN or infinity where a number was needed.
 */
export type ErrorCode = "usage" | "input" | "io" | "interrupted" | "numeric";

export class SluiceError extends Error {
  override readonly name = "SluiceError";
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

export const usageError = (message: string): SluiceError => new SluiceError("usage", message);
export const inputError = (message: string, cause?: unknown): SluiceError =>
  new SluiceError("input", message, { cause });
export const numericError = (message: string): SluiceError => new SluiceError("numeric", message);
export const interruptedError = (message: string): SluiceError => new SluiceError("interrupted", message);

const IO_ADVICE: Record<string, string> = {
  ENOSPC: "the disk is full; free some space or choose another folder",
  EDQUOT: "the disk quota is used up; free some space or choose another folder",
  EFBIG: "the file would be larger than this system allows",
  EACCES: "no permission; choose a folder that you may use",
  EPERM: "no permission; choose a folder that you may use",
  EROFS: "the file system is read-only; choose another folder",
  ENOENT: "no such file or folder; check the path",
  ENOTDIR: "a part of the path is a file, not a folder",
  EISDIR: "it is a folder, a file was expected",
  EMFILE: "too many open files; raise the limit (ulimit -n)",
};

/** Turns an error of the file system into a SluiceError with advice; `action` reads like `write out/cfg.json`. */
export function ioError(action: string, cause: unknown): SluiceError {
  if (cause instanceof SluiceError) return cause;
  const code = errnoOf(cause);
  const why = (code && IO_ADVICE[code]) ?? (cause instanceof Error ? cause.message : String(cause));
  return new SluiceError("io", `cannot ${action}: ${why}${code ? ` (${code})` : ""}`, { cause });
}

/** `ENOENT` and its like, if the error came from the system. */
export function errnoOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return typeof code === "string" && /^E[A-Z0-9]+$/.test(code) ? code : undefined;
}

/** Process exit code: 2 wrong usage, 130 interrupted, 1 for all else. */
export function exitCodeOf(error: unknown): 1 | 2 | 130 {
  if (!(error instanceof SluiceError)) return 1;
  if (error.code === "usage") return 2;
  return error.code === "interrupted" ? 130 : 1;
}

/** Throws `interrupted` when the signal was raised. `saved` says what is not lost. */
export function throwIfAborted(signal: AbortSignal | undefined, saved = "nothing was written"): void {
  if (signal?.aborted) throw interruptedError(`interrupted; ${saved}`);
}
