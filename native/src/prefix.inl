// Choosing and ordering the slots of codes [B, K]: the largest of a whole batch, and nested groups as prefixes.
// Shared between threads by spans of slots and by rows.

#include "prims.inl"

namespace prims {

// Unsigned order is the order of the numbers; the zeros are equal and NaN is largest.
static SLUICE_INLINE uint32_t order_key(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (value == 0) bits = 0;
  return value != value ? 0xffffffffu : bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

// args: values [B, K], kept [B, K], least [], full [], B, K, count (at most B * K). Finds the key of the count-th
// largest digit by digit, 11 + 11 + 10 bits, from histograms of the spans; slots of that key are kept from the front.
static void keep_largest(Pool& pool, const Args& args) {
  const float* values = args.ptr<const float>(0);
  float* kept = args.ptr<float>(1);
  const int64_t b = args.i64(4), k = args.i64(5), n = b * k;
  const int64_t span = 1 << 15, spans = ceil_div(n, span), bins = 2048;
  *args.ptr<float>(2) = 0;
  *args.ptr<float>(3) = 0;
  if (n == 0) return;
  uint32_t* counts = (uint32_t*)pool.shared(spans * (bins + 32) * 4);  // [spans, bins]
  float* smallest = (float*)(counts + spans * bins);                     // one per span, 64 bytes apart
  uint32_t* ties = (uint32_t*)smallest + 16;

  uint32_t found = 0;           // the digits of the key, as far as they are known
  int64_t left = args.i64(6);   // slots to keep among those that share these digits
  for (int shift = 21, known = 32; known > 0; known = shift, shift = shift > 11 ? shift - 11 : 0) {
    const uint32_t digits = (1u << (known - shift)) - 1, above = known < 32 ? found >> known : 0;
    parallel(pool, n, span, [=](int64_t begin, int64_t end, int) {
      uint32_t* count = counts + begin / span * bins;
      memset(count, 0, bins * 4);
      for (int64_t i = begin; i < end; i++) {
        const uint32_t key = order_key(values[i]);
        if (known == 32 || key >> known == above) count[key >> shift & digits]++;
      }
    });
    for (int64_t digit = digits;; digit--) {
      int64_t total = 0;
      for (int64_t s = 0; s < spans; s++) total += counts[s * bins + digit];
      if (total < left) {
        left -= total;
        continue;
      }
      found |= (uint32_t)digit << shift;
      for (int64_t s = 0; s < spans; s++) ties[s * 32] = counts[s * bins + digit];
      break;
    }
  }
  for (int64_t s = 0; s < spans; s++) {
    const uint32_t there = ties[s * 32];
    ties[s * 32] = (uint32_t)min64(there, left);
    left -= ties[s * 32];
  }

  parallel(pool, n, span, [=](int64_t begin, int64_t end, int) {
    uint32_t tied = ties[begin / span * 32];
    float least = INFINITY;
    for (int64_t i = begin; i < end; i++) {
      const uint32_t key = order_key(values[i]);
      bool keep = key > found;
      if (key == found && tied > 0) {
        keep = true;
        tied--;
      }
      kept[i] = keep ? values[i] : 0;
      if (kept[i] > 0 && kept[i] < least) least = kept[i];
    }
    smallest[begin / span * 32] = least;
  });
  float least = INFINITY;
  for (int64_t s = 0; s < spans; s++) least = smallest[s * 32] < least ? smallest[s * 32] : least;
  int64_t full = 0;
  bool any = false;
  for (int64_t r = 1; r <= b; r++) full += kept[r * k - 1] > 0;
  for (int64_t i = 0; i < n && least == INFINITY && !any; i++) any = kept[i] > 0;  // an infinite one
  *args.ptr<float>(2) = least < INFINITY || any ? least : 0;
  *args.ptr<float>(3) = (float)full;
}

// args: values [B, K], indices [B, K], values', indices', weights [B, K + 1], from, B, K, L, then L bounds. Each row's
// used slots are inserted by (index, slot) into a sorted list of keys.
static void group_prefixes(Pool& pool, const Args& args) {
  const float* values = args.ptr<const float>(0);
  const int32_t* indices = args.ptr<const int32_t>(1);
  float* y = args.ptr<float>(2);
  int32_t* order = args.ptr<int32_t>(3);
  float* weights = args.ptr<float>(4);
  int32_t* from = args.ptr<int32_t>(5);
  const int64_t b = args.i64(6), k = args.i64(7), levels = args.i64(8);
  if (!indices_ok(args, indices, b * k, args.i64(8 + levels))) return;
  const double* bounds = args.a + 9;
  parallel(pool, b, 64, [=, &pool](int64_t begin, int64_t end, int worker) {
    int64_t* keys = (int64_t*)pool.scratch(worker, k * 8);
    for (int64_t r = begin; r < end; r++) {
      const float* v = values + r * k;
      const int32_t* f = indices + r * k;
      int64_t n = 0;
      for (int64_t s = 0; s < k; s++) {
        if (v[s] == 0) continue;
        const int64_t key = (int64_t)f[s] << 32 | s;
        int64_t low = 0, high = n;
        while (low < high) {
          const int64_t middle = (low + high) / 2;
          if (keys[middle] < key) low = middle + 1;
          else high = middle;
        }
        memmove(keys + low + 1, keys + low, (n - low) * 8);
        keys[low] = key;
        n++;
      }
      float* weight = weights + r * (k + 1);
      memset(weight, 0, (k + 1) * 4);
      for (int64_t l = 0, t = 0; l < levels; l++) {
        while (t < n && keys[t] >> 32 < (int64_t)bounds[l]) t++;
        weight[t] += 1;
      }
      for (int64_t s = 0, unused = n; s < k; s++)
        if (v[s] == 0) keys[unused++] = s;
      for (int64_t s = 0; s < k; s++) {
        const int32_t slot = (int32_t)keys[s];
        y[r * k + s] = v[slot];
        order[r * k + s] = f[slot];
        from[r * k + s] = slot;
      }
    }
  });
}

static void register_prefix(Registry& r) {
  r.add("keepLargest", keep_largest);
  r.add("groupPrefixes", group_prefixes);
}

}  // namespace prims

using prims::register_prefix;
