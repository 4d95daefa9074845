/**
 * The error of the text layer, and the search for the nearest names in its messages.
 */

/** Something wrong with a corpus, a text file or a tokenizer; the message names it and the way out. */
export class TextError extends Error {
  override name = "TextError";
}

/** The names most like `wanted`, nearest first; none that differs in more than half of its letters. */
export function nearestNames(wanted: string, names: readonly string[], count = 3): string[] {
  const lower = wanted.toLowerCase();
  return names
    .map((name) => ({ name, distance: name.includes(lower) ? 0 : editDistance(lower, name.toLowerCase()) }))
    .filter(({ name, distance }) => distance <= Math.max(2, Math.floor(name.length / 2)))
    .sort((a, b) => a.distance - b.distance)
    .slice(0, count)
    .map(({ name }) => name);
}

/** Levenshtein distance in UTF-16 units. */
export function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitution, row[j] + 1, next[j - 1] + 1));
    }
    row = next;
  }
  return row[b.length];
}
