/**
 * Hashes that decide things: held-out membership and shuffles. Stable for ever: changing one moves documents
 * between train and held-out.
 */

/** 32-bit FNV-1a over UTF-16 units with a final avalanche, unsigned. */
export function hashString(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return mix32(hash);
}

/** Avalanche of 32 bits (murmur3's finaliser), unsigned. */
export function mix32(value: number): number {
  let h = value;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** `text` as a number in [0, 1). */
export function hashUnit(text: string): number {
  return hashString(text) / 2 ** 32;
}

/** A permutation of 0 .. count-1 that depends on nothing but the seed, [count]. */
export function permutation(count: number, seed: number): Uint32Array {
  const order = new Uint32Array(count);
  for (let i = 0; i < count; i++) order[i] = i;
  for (let i = count - 1; i > 0; i--) {
    const random = mix32(Math.imul(i, 0x9e3779b9) ^ mix32(seed ^ 0x5bd1e995));
    const j = Math.floor((random / 2 ** 32) * (i + 1));
    const kept = order[i];
    order[i] = order[j];
    order[j] = kept;
  }
  return order;
}
