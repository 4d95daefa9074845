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

void split_key(uint64_t key, float* value, int32_t* index) {
  uint32_t bits = static_cast<uint32_t>(key >> 32);
  bits ^= bits >> 31 ? 0x80000000u : 0xffffffffu;
  memcpy(value, &bits, 4);
  *index = static_cast<int32_t>(~static_cast<uint32_t>(key));
}

int64_t select_best(uint64_t* keys, int64_t n, int64_t k) {
  if (n <= k) return n;
  std::nth_element(keys, keys + k, keys + n, std::greater<uint64_t>());
  return k;
}

int64_t select_keys(const float* values, const int32_t* indices, int64_t n, int64_t k, uint64_t* keys) {
  for (int64_t i = 0; i < n; i++) keys[i] = make_key(values[i], indices[i]);
  return select_best(keys, n, k);
}

void write_best(uint64_t* keys, int64_t n, int64_t k, float fill, float* values, int32_t* indices) {
  std::sort(keys, keys + n, std::greater<uint64_t>());
  for (int64_t i = 0; i < n; i++) split_key(keys[i], values + i, indices + i);
  if (n == k) return;
  std::sort(keys, keys + n, [](uint64_t a, uint64_t b) { return static_cast<uint32_t>(a) > static_cast<uint32_t>(b); });
  int64_t used = 0, at = n;
  for (int32_t index = 0; at < k; index++) {
    if (used < n && static_cast<int32_t>(~static_cast<uint32_t>(keys[used])) == index) {
      used++;
      continue;
    }
    values[at] = fill;
    indices[at++] = index;
  }
}

}  // namespace sluice
