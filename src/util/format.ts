/**
 * Numbers for people: 12.3k, 4m 05s, 1.5 MB; values of files for messages.
 */

const MAX_BRIEF = 80;

/**
 * A value that came from a file, as JSON for a message: one line, at most about 80 characters, and only the outermost level,
 * so that whatever is nested in it, deep or in circles, costs nothing and never throws.
 */
export function brief(value: unknown): string {
  if (typeof value === "string") return quoted(value);
  if (typeof value !== "object" || value === null) return String(value);
  if (!Array.isArray(value)) return "{…}";
  const items = value.slice(0, 8).map((item) => (typeof item === "object" && item ? "…" : brief(item)));
  const text = `[${items.join(", ")}${value.length > items.length ? ", …" : ""}]`;
  return text.length > MAX_BRIEF ? `${text.slice(0, MAX_BRIEF)}…]` : text;
}

function quoted(text: string): string {
  const json = JSON.stringify(text.slice(0, MAX_BRIEF));
  return text.length > MAX_BRIEF ? `${json.slice(0, -1)}…"` : json;
}

/** `+1.50`, `-0.25`, `0.00`. */
export const signed = (x: number, digits: number): string => `${x > 0 ? "+" : ""}${x.toFixed(digits)}`;

/** `950`, `12.3k`, `4.56M`, `1.20G`. */
export function formatCount(n: number): string {
  if (!Number.isFinite(n)) return String(n);
  const sign = n < 0 ? "-" : "";
  const a = Math.abs(n);
  if (a < 999.5) return sign + (Number.isInteger(a) ? String(a) : a >= 10 ? a.toFixed(1) : a.toPrecision(3));
  const units = ["k", "M", "G", "T"];
  let scaled = a;
  let unit = -1;
  while (scaled >= 999.5 && unit < units.length - 1) {
    scaled /= 1000;
    unit++;
  }
  return sign + scaled.toPrecision(3) + units[unit];
}

/** `0.4s`, `12s`, `4m 05s`, `2h 07m`. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  if (seconds < 9.95) return `${seconds.toFixed(1)}s`;
  const s = Math.round(seconds);
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m ${String(s % 60).padStart(2, "0")}s`;
  return `${Math.floor(s / 3600)}h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}m`;
}

/** Decimal units: `512 B`, `1.50 MB`. */
export function formatBytes(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let scaled = bytes;
  let unit = -1;
  while (scaled >= 999.5 && unit < units.length - 1) {
    scaled /= 1000;
    unit++;
  }
  return `${scaled.toPrecision(3)} ${units[unit]}`;
}
