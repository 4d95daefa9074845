/**
 * Draws until enough different samples are there, for splits that share nothing.
 */
import { type Rng, usageError } from "../util/index.ts";

/** Draws in a row without anything new after which a space counts as used up. */
const PATIENCE = 5000;

export interface Splits<S> {
  readonly train: S[];
  readonly valid: S[];
  readonly test: S[];
}

export interface DistinctOptions<S> {
  readonly rng: Rng;
  readonly draw: (rng: Rng) => S;
  /** Samples with equal keys are the same sample. */
  readonly key: (sample: S) => string;
  readonly sizes: Readonly<Record<keyof Splits<S>, number>>;
  /** What to change where there are too few; ends the message. */
  readonly wayOut: string;
}

/** What was drawn first does not depend on how much is drawn after it. */
const ORDER = ["test", "valid", "train"] as const;

/** No key twice in all splits. Each split has a random stream of its own. Throws when the draws run dry. */
export function drawDistinct<S>(what: string, options: DistinctOptions<S>): Splits<S> {
  const { rng, draw, key, sizes, wayOut } = options;
  for (const [split, size] of Object.entries(sizes)) {
    if (!Number.isInteger(size) || size < 0)
      throw usageError(`${what}: ${split}=${size} must be a whole number, 0 or more`);
  }
  const wanted = Object.values(sizes).reduce((sum, size) => sum + size, 0);
  const seen = new Set<string>();
  const splits: Splits<S> = { train: [], valid: [], test: [] };
  for (const split of ORDER) {
    const stream = rng.fork(split);
    const samples = splits[split];
    for (let misses = 0; samples.length < sizes[split]; ) {
      const sample = draw(stream);
      const before = seen.size;
      seen.add(key(sample));
      if (seen.size > before) {
        samples.push(sample);
        misses = 0;
      } else if (++misses === PATIENCE) {
        throw usageError(
          `${what}: ${wanted} different samples are asked for, but after ${seen.size} there was ` +
            `nothing new in ${PATIENCE} draws; ${wayOut}`,
        );
      }
    }
  }
  return splits;
}
