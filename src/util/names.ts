/**
 * Nearest names, for "did you mean".
 */

/** Levenshtein distance where swapping two neighbours counts as one edit. */
export function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = a[i - 1] === b[j - 1] ? 0 : 1;
      row[j] = Math.min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + change);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        row[j] = Math.min(row[j], before[j - 2] + 1);
      }
    }
    before = previous;
    previous = row;
  }
  return previous[b.length];
}

/** Nothing is near to a name longer than this, and finding that out would take its length squared. */
const MAX_NAME = 256;

/** Up to `limit` candidates nearest to `name`, best first; a candidate that contains it counts as near. */
export function nearestNames(name: string, candidates: Iterable<string>, limit = 3): string[] {
  if (name.length > MAX_NAME) return [];
  const wanted = name.toLowerCase();
  const scored: { candidate: string; score: number }[] = [];
  for (const candidate of candidates) {
    if (candidate.length > MAX_NAME) continue;
    const lower = candidate.toLowerCase();
    const contains = wanted.length >= 2 && (lower.includes(wanted) || wanted.includes(lower));
    const distance = editDistance(wanted, lower);
    const near = distance <= Math.max(2, Math.floor(Math.max(wanted.length, lower.length) / 3));
    if (near || contains) scored.push({ candidate, score: distance - (contains ? wanted.length / 2 : 0) });
  }
  scored.sort((a, b) => a.score - b.score || (a.candidate < b.candidate ? -1 : 1));
  return scored.slice(0, limit).map((s) => s.candidate);
}

/** `; did you mean a, b or c?`, or, when nothing is near, `; there are: a, b, ...`. Ready to follow a message. */
export function didYouMean(name: string, candidates: Iterable<string>): string {
  const all = [...candidates];
  const near = nearestNames(name, all);
  if (near.length === 1) return `; did you mean ${near[0]}?`;
  if (near.length > 1) return `; did you mean ${near.slice(0, -1).join(", ")} or ${near[near.length - 1]}?`;
  if (all.length === 0) return "";
  return `; there are: ${all.slice(0, 12).join(", ")}${all.length > 12 ? `, … (${all.length} in all)` : ""}`;
}
