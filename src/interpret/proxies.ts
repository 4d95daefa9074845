/**
 * How clear a feature looks without a language model that explains it: proxies that need only counts and weights.
 * `multi_token_ratio` and `max_decoder_cosine` are formed where their sums are (feature-build.ts).
 */

/**
 * H = −Σ p_i ln p_i in nats over the tokens that a feature fires on, p_i the share of its firings on token i (arXiv
 * 2505.22255, section 5: the lower, the better features score). 0: always the same token; NaN without firings.
 */
export function tokenEntropy(counts: Iterable<number>): number {
  let total = 0;
  let weighted = 0; // Σ n ln n
  for (const n of counts) {
    total += n;
    weighted += n > 0 ? n * Math.log(n) : 0;
  }
  return total === 0 ? Number.NaN : Math.max(0, Math.log(total) - weighted / total);
}
