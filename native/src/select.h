/**
 * Selection of the k best (value, index) pairs: larger values first, the lower index on ties, NaN before all numbers.
 * A pair is one 64-bit key whose unsigned order is that order. Plain code, shared by all ISAs.
 */
#pragma once
#include <stdint.h>

namespace sluice {

void make_keys(const float* values, const int32_t* indices, int64_t n, uint64_t* keys);

/** Moves the min(n, k) best keys to the front, in no order; returns their number. */
int64_t select_best(uint64_t* keys, int64_t n, int64_t k);

/** A key and two numbers that go with it. */
struct PairKey {
  uint64_t key;
  float u, v;
};
int64_t select_best(PairKey* pairs, int64_t n, int64_t k);

/** The same in order, the best first. */
int64_t sort_best(PairKey* pairs, int64_t n, int64_t k);

/** The pair of a key. */
void split_key(uint64_t key, float* value, int32_t* index);

/**
 * Writes the min(n, k) best pairs in order; the rest of k becomes `fill` at the lowest unused indices. Spoils `keys`,
 * which has room for 2 n. Fast if the keys come in the order of their indices.
 */
void write_best(uint64_t* keys, int64_t n, int64_t k, float fill, float* values, int32_t* indices);

/** The places from n to k of a row whose first n are those of the keys: `fill` at the lowest unused indices. */
void fill_unused(uint64_t* keys, int64_t n, int64_t k, float fill, float* values, int32_t* indices);

}  // namespace sluice
