/** Selection by 64-bit keys: the value's bits in an order-preserving code above, the inverted index below. */
#include "select.h"

#include <string.h>

#include <algorithm>
#include <functional>

namespace sluice {

static uint64_t make_key(float value, int32_t index) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (value == 0) bits = 0;  // -0 ties with 0
  bits = value != value ? 0xffffffffu : bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
  return (static_cast<uint64_t>(bits) << 32) | ~static_cast<uint32_t>(index);
}

void make_keys(const float* values, const int32_t* indices, int64_t n, uint64_t* keys) {
  for (int64_t i = 0; i < n; i++) keys[i] = make_key(values[i], indices[i]);
}

static int32_t index_of(uint64_t key) { return static_cast<int32_t>(~static_cast<uint32_t>(key)); }

void split_key(uint64_t key, float* value, int32_t* index) {
  uint32_t bits = static_cast<uint32_t>(key >> 32);
  bits ^= bits >> 31 ? 0x80000000u : 0xffffffffu;
  memcpy(value, &bits, 4);
  *index = index_of(key);
}

int64_t select_best(uint64_t* keys, int64_t n, int64_t k) {
  if (n <= k) return n;
  std::nth_element(keys, keys + k, keys + n, std::greater<uint64_t>());
  return k;
}

static const auto better = [](const PairKey& a, const PairKey& b) { return a.key > b.key; };

int64_t select_best(PairKey* pairs, int64_t n, int64_t k) {
  if (n <= k) return n;
  std::nth_element(pairs, pairs + k, pairs + n, better);
  return k;
}

int64_t sort_best(PairKey* pairs, int64_t n, int64_t k) {
  n = select_best(pairs, n, k);
  std::sort(pairs, pairs + n, better);
  return n;
}

static bool indices_ascend(const uint64_t* keys, int64_t n) {
  bool ascend = true;
  for (int64_t i = 1; i < n; i++) ascend &= index_of(keys[i - 1]) < index_of(keys[i]);
  return ascend;
}

/** Stable, by the value only, descending: four passes of a byte; `spare` is the other buffer. */
static void sort_by_value(uint64_t* keys, int64_t n, uint64_t* spare) {
  uint32_t start[4][256] = {};
  for (int64_t i = 0; i < n; i++)
    for (int b = 0; b < 4; b++) start[b][(~keys[i] >> (32 + 8 * b)) & 255]++;
  for (int b = 0; b < 4; b++) {
    uint32_t at = 0;
    for (int d = 0; d < 256; d++) {
      const uint32_t count = start[b][d];
      start[b][d] = at;
      at += count;
    }
    for (int64_t i = 0; i < n; i++) spare[start[b][(~keys[i] >> (32 + 8 * b)) & 255]++] = keys[i];
    std::swap(keys, spare);
  }
}

void write_best(uint64_t* keys, int64_t n, int64_t k, float fill, float* values, int32_t* indices) {
  constexpr int64_t kLong = 128;  // from here on counting beats comparing
  if (n >= kLong && n <= 2 * k && indices_ascend(keys, n)) {
    sort_by_value(keys, n, keys + n);
  } else {
    n = select_best(keys, n, k);
    std::sort(keys, keys + n, std::greater<uint64_t>());
  }
  if (n > k) n = k;
  for (int64_t i = 0; i < n; i++) split_key(keys[i], values + i, indices + i);
  fill_unused(keys, n, k, fill, values, indices);
}

void fill_unused(uint64_t* keys, int64_t n, int64_t k, float fill, float* values, int32_t* indices) {
  if (n == k) return;
  std::sort(keys, keys + n, [](uint64_t a, uint64_t b) { return index_of(a) < index_of(b); });
  int64_t used = 0, at = n;
  for (int32_t index = 0; at < k; index++) {
    if (used < n && index_of(keys[used]) == index) {
      used++;
      continue;
    }
    values[at] = fill;
    indices[at++] = index;
  }
}

}  // namespace sluice
