/**
 * A feature database of random codes, as large as a test wants it.
 */
import { FeatureBuild, type ScanBatch, type ScanOptions, type TokenRow } from "../../src/interpret/index.ts";
import { createSae, type Sae } from "../../src/sae/index.ts";
import { createDevice } from "../../src/tensor/index.ts";
import { Rng } from "../../src/util/index.ts";

/** Contexts begin with token 0; token 1 ends a document somewhere in them if `documents`. The last feature never fires. */
export function randomBatches(
  { features: F, vocabSize: V, context: T }: ScanOptions,
  { contexts, documents = true }: { contexts: number; documents?: boolean },
): ScanBatch[] {
  const rng = new Rng(11);
  const batches: ScanBatch[] = [];
  for (let at = 0; at < contexts; at += 4) {
    const K = 1 + rng.int(4);
    const tokens = Int32Array.from({ length: 4 * T }, (_, i) => (i % T === 0 ? 0 : 2 + rng.int(V - 2)));
    for (let w = 0; documents && w < 4; w++) tokens[w * T + 1 + rng.int(T - 1)] = 1;
    const values = Float32Array.from({ length: 4 * T * K }, () => Math.max(0, (rng.int(40) - 10) / 8));
    const indices = new Int32Array(values.length);
    for (let i = 0; i < 4 * T; i++) indices.set(rng.permutation(F - 1).subarray(0, K), i * K);
    batches.push({ tokens, values, indices });
  }
  return batches;
}

/** Token 7 has no bytes, as with a tokenizer that is not byte-level. */
export const vocabularyOf = (vocabSize: number): TokenRow[] =>
  Array.from({ length: vocabSize }, (_, id) => ({
    id,
    text: ` t${id}`,
    bytes: id === 7 ? null : new TextEncoder().encode(` t${id}`),
    special: id < 2,
  }));

export async function withSae<R>(features: number, work: (sae: Sae) => Promise<R>): Promise<R> {
  const device = await createDevice({ backend: "ref" });
  const config = { dIn: 6, features, activation: { kind: "topk", k: 2 }, applyBDecToInput: true } as const;
  try {
    return await work(createSae(device, config, { rng: new Rng(1) }));
  } finally {
    device.close();
  }
}

/** Builds it in one go. */
export async function buildRandom(
  folder: string,
  scan: ScanOptions,
  text: { contexts: number; documents?: boolean },
): Promise<void> {
  const build = await FeatureBuild.open(folder, { scan, settings: { text: "random" } });
  try {
    for (const batch of randomBatches(scan, text)) await build.add(batch);
    const vocabulary = vocabularyOf(scan.vocabSize);
    await withSae(scan.features, (sae) => build.finish({ sae, vocabulary }));
  } finally {
    build.close();
  }
}
