/**
 * Numbers for people: 12.3k, 4m 05s, 1.5 MB.
 */

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
