// Losses over all prefixes of codes [B, K]; choosing the largest slots of a batch and ordering them by nested groups.
// B tokens, K slots each, D width, F features (rows of w). Slots of value 0 are skipped.

#include "prims.inl"

namespace prims {

// ---- prefix losses
//
// Every column of w stands alone, so a task owns some columns: it copies those of the used rows of w to packed pairs
// [row of w | row of its gradient], walks all tokens over them a few columns at a time, and writes the gradient out.
// A token's rows are visited forwards for the error e_n of the longest prefix, then backwards, taking each row out of e
// again: s += weight * e, dot = w . s, gradient += value * s. The squared errors follow from the same dots:
//   sum over t of weight_t |e_t|^2 = e_0 . s_0 + sum over j of value_j (w_j . s_{j+1}).
// Bound by the last-level cache. The order of every sum depends on shapes and codes alone.

struct Slot {
  int32_t at;  // of its pair of rows, in floats
  float value;
};

// The used slots of all tokens, those of token t from start[t] to start[t + 1]. Prefixes that are the same for lack of
// used slots between them are one, with the sum of their weights.
struct UsedSlots {
  const int32_t* number;  // of each feature among the used ones, or -1
  int64_t features, rows, tokens;
  const int32_t* start;
  const Slot* slots;     // and K more behind the last, to be prefetched
  const float* weights;  // of token t from start[t] + t, or the same for all
  bool shared;
};

constexpr int kVectors = VL == 16 ? 2 : 4;  // vectors of a pass
constexpr int64_t kWidth = kVectors * VL;
constexpr int64_t kTaskColumns = 64, kTasksAtOnce = 16;
constexpr int64_t kManyRows = 24576;  // the pairs of more would outgrow the cache: then a task is one pass
constexpr int64_t kLead = 32;         // slots between a prefetch and its use

static SLUICE_INLINE void read_columns(vf* y, const float* p, int64_t cols) {
  for (int i = 0; i < kVectors; i++)
    y[i] = (i + 1) * VL <= cols ? vload(p + i * VL) : vloadn(p + i * VL, cols > i * VL ? cols - i * VL : 0);
}
static SLUICE_INLINE void write_columns(float* p, const vf* x, int64_t cols) {
  for (int i = 0; i < kVectors; i++) {
    if ((i + 1) * VL <= cols) vstore(p + i * VL, x[i]);
    else vstoren(p + i * VL, x[i], cols > i * VL ? cols - i * VL : 0);
  }
}

// One pass of kWidth columns, `cols` of which exist; pitch d. Adds to the gradients in `pairs` and to `dots` (sets them
// when `first`), returns the sum of e_0 . s_0. `lanes` holds one vector per slot of a token.
static double walk_columns(const UsedSlots& used, const float* bias, const float* target, float* error, float* pull,
                           int64_t d, int64_t cols, float* pairs, float* dots, float* lanes, bool first) {
  vf b[kVectors];
  read_columns(b, bias, cols);
  double total = 0;
  for (int64_t t = 0; t < used.tokens; t++) {
    const int64_t begin = used.start[t], n = used.start[t + 1] - begin;
    const Slot* slot = used.slots + begin;
    const float* weight = used.shared ? used.weights : used.weights + begin + t;
    // Rows of w are read ahead on the way to the end, gradients and rows of the next token on the way back.
    const int64_t lead = min64(n, kLead), later = min64(t + 4, used.tokens - 1) * d;
    const auto prefetch = [=](int64_t at) {
      for (int64_t i = 0; i < kWidth; i += 16) __builtin_prefetch(pairs + at + i);
    };
    for (int64_t i = 0; i < cols; i += 16) {
      __builtin_prefetch(target + later + i);
      __builtin_prefetch(error + later + i, 1);
      __builtin_prefetch(pull + later + i, 1);
    }
    vf e0[kVectors], e[kVectors], f[kVectors], s[kVectors];
    read_columns(e0, target + t * d, cols);
    for (int i = 0; i < kVectors; i++) {
      e0[i] = b[i] - e0[i];
      e[i] = e0[i];
      f[i] = vf{};
    }
    int64_t j = 0;
    for (; j + 2 <= n; j += 2) {
      const float *p = pairs + slot[j].at, *q = pairs + slot[j + 1].at;
      const vf v = vset(slot[j].value), u = vset(slot[j + 1].value);
      for (int i = 0; i < kVectors; i++) {
        e[i] = vfma(v, vload(p + i * VL), e[i]);
        f[i] = vfma(u, vload(q + i * VL), f[i]);
      }
      for (int64_t a = j; a < j + 2; a++) prefetch(a + lead < n ? slot[a + lead].at : slot[a].at + kWidth);
    }
    for (; j < n; j++)
      for (int i = 0; i < kVectors; i++) e[i] = vfma(vset(slot[j].value), vload(pairs + slot[j].at + i * VL), e[i]);

    int64_t low = 0;  // no weight below
    while (low < n && weight[low] == 0) low++;
    for (int i = 0; i < kVectors; i++) {
      e[i] += f[i];
      s[i] = weight[n] != 0 ? e[i] * weight[n] : vf{};
    }
    write_columns(error + t * d, e, cols);
    for (j = n - 1; j >= low; j--) {
      float* p = pairs + slot[j].at;
      const vf v = vset(slot[j].value);
      vf dot = {};
      for (int i = 0; i < kVectors; i++) {
        const vf w = vload(p + i * VL);
        dot = vfma(w, s[i], dot);
        vstore(p + kWidth + i * VL, vfma(v, s[i], vload(p + kWidth + i * VL)));
        e[i] -= v * w;
      }
      vstore(lanes + j * VL, dot);
      prefetch(j < lead ? slot[n + lead - 1 - j].at : slot[j - lead].at + kWidth);
      if (weight[j] != 0)
        for (int i = 0; i < kVectors; i++) s[i] = vfma(vset(weight[j]), e[i], s[i]);
    }
    for (; j >= 0; j--) {
      float* p = pairs + slot[j].at;
      const vf v = vset(slot[j].value);
      vf dot = {};
      for (int i = 0; i < kVectors; i++) {
        dot = vfma(vload(p + i * VL), s[i], dot);
        vstore(p + kWidth + i * VL, vfma(v, s[i], vload(p + kWidth + i * VL)));
      }
      vstore(lanes + j * VL, dot);
      prefetch(j < lead ? slot[n + lead - 1 - j].at : slot[j - lead].at + kWidth);
    }
    write_columns(pull + t * d, s, cols);

    vf own = {};
    for (int i = 0; i < kVectors; i++) own = vfma(e0[i], s[i], own);
    total += vhsum(own);
    float* out = dots + begin;
    for (j = 0; j + 4 <= n; j += 4) {
      float sums[4];
      const float* l = lanes + j * VL;
      vhsum4(vload(l), vload(l + VL), vload(l + 2 * VL), vload(l + 3 * VL), sums);
      for (int g = 0; g < 4; g++) out[j + g] = first ? sums[g] : out[j + g] + sums[g];
    }
    for (; j < n; j++) {
      const float sum = vhsum(vload(lanes + j * VL));
      out[j] = first ? sum : out[j] + sum;
    }
  }
  return total;
}

// Numbers the used features and lists the used slots, in slots 0 and 1 of the pool's shared memory.
static UsedSlots used_slots(Pool& pool, const float* values, const int32_t* index, const float* weights, bool shared,
                            int64_t b, int64_t k, int64_t features) {
  int32_t* number = (int32_t*)pool.shared((features + b + 1) * 4, 0);
  int32_t* start = number + features;
  memset(number, 0, features * 4);
  int64_t n = 0;
  for (int64_t t = 0; t < b; t++) {
    start[t] = (int32_t)n;
    for (int64_t i = t * k; i < (t + 1) * k; i++) {
      if (values[i] == 0) continue;
      number[index[i]] = 1;
      n++;
    }
  }
  start[b] = (int32_t)n;
  int32_t rows = 0;
  for (int64_t f = 0; f < features; f++) number[f] = number[f] ? rows++ : -1;

  const bool full = n == b * k && shared;
  Slot* slots = (Slot*)pool.shared((n + k) * 8 + (full ? 0 : (n + b) * 4) + 64, 1);
  float* merged = (float*)(slots + n + k);
  memset(slots + n, 0, k * 8);
  parallel(pool, b, 64, [=](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      Slot* slot = slots + start[t];
      for (int64_t i = t * k; i < (t + 1) * k; i++)
        if (values[i] != 0) *slot++ = Slot{(int32_t)(number[index[i]] * 2 * kWidth), values[i]};
      if (full) continue;
      const float* weight = shared ? weights : weights + t * (k + 1);
      float* sum = merged + start[t] + t;
      *sum = weight[0];
      for (int64_t j = 0; j < k; j++) {
        if (values[t * k + j] != 0) *++sum = weight[j + 1];
        else *sum += weight[j + 1];
      }
    }
  });
  return UsedSlots{number, features, rows, b, start, slots, full ? weights : merged, full};
}

// Columns of the used rows of w, pitch d, as pairs with gradients of 0; one pass behind the other.
static void load_pairs(const UsedSlots& used, const float* w, int64_t d, int64_t cols, float* pairs) {
  for (int64_t f = 0; f < used.features; f++) {
    if (used.number[f] < 0) continue;
    const float* row = w + f * d;
    for (int64_t c = 0; c < cols; c += 16) __builtin_prefetch(row + 16 * d + c);
    for (int64_t c = 0; c < cols; c += kWidth) {
      float* pair = pairs + (c / kWidth * used.rows + used.number[f]) * 2 * kWidth;
      vf x[kVectors];
      read_columns(x, row + c, cols - c);
      for (int i = 0; i < kVectors; i++) {
        vstore(pair + i * VL, x[i]);
        vstore(pair + kWidth + i * VL, vf{});
      }
    }
  }
}

// p[0, n) = x, past the cache where p is aligned: nothing here reads it again.
static SLUICE_INLINE void stream(float* p, const float* x, int64_t n) {
  int64_t i = 0;
#if defined(__x86_64__)
  if (((uintptr_t)p & (VL * 4 - 1)) == 0)
    for (; i + VL <= n; i += VL) {
#if VL == 16
      _mm512_stream_ps(p + i, (__m512)vload(x + i));
#elif VL == 8
      _mm256_stream_ps(p + i, (__m256)vload(x + i));
#else
      _mm_stream_ps(p + i, (__m128)vload(x + i));
#endif
    }
#endif
  for (; i < n; i++) p[i] = x[i];
}

// The gradients of the pairs to those columns of all rows of dw.
static void store_gradients(const UsedSlots& used, const float* pairs, int64_t cols, float* dw, int64_t d) {
  static const float zeros[kWidth] = {};
  for (int64_t f = 0; f < used.features; f++) {
    const int64_t row = used.number[f];
    for (int64_t c = 0; c < cols; c += kWidth) {
      const float* pair = pairs + (c / kWidth * used.rows + row) * 2 * kWidth;
      stream(dw + f * d + c, row < 0 ? zeros : pair + kWidth, min64(kWidth, cols - c));
    }
  }
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// args: values, indices [B, K], w [F, D], bias [D], target [B, D], weights [K + 1] or [B, K + 1], loss [], error [B, D],
// dValues [B, K], dW [F, D], pull [B, D], B, K, D, F, whether the weights are shared
static void prefix_loss(Pool& pool, const Args& args) {
  const float* values = args.ptr<const float>(0);
  const int32_t* index = args.ptr<const int32_t>(1);
  const float* w = args.ptr<const float>(2);
  const float* bias = args.ptr<const float>(3);
  const float* target = args.ptr<const float>(4);
  float* error = args.ptr<float>(7);
  float* d_values = args.ptr<float>(8);
  float* dw = args.ptr<float>(9);
  float* pull = args.ptr<float>(10);
  const int64_t b = args.i64(11), k = args.i64(12), d = args.i64(13), features = args.i64(14);
  if (!indices_ok(args, index, b * k, features)) return;
  const UsedSlots used =
      used_slots(pool, values, index, args.ptr<const float>(5), args.i64(15) != 0, b, k, features);

  const int64_t columns = used.rows > kManyRows ? kWidth : kTaskColumns, tasks = ceil_div(d, columns);
  const int64_t n = used.start[b], spans = ceil_div(b, 64), pairs_size = used.rows * 2 * kWidth;
  float* dots = (float*)pool.shared(min64(tasks, kTasksAtOnce) * n * 4 + 64, 2);  // [tasks at once, n]
  double* sums = (double*)pool.shared((tasks + spans) * 8 + 64, 3);               // of the tasks, then of the spans
  int64_t done = 0;
  do {
    const int64_t group = min64(kTasksAtOnce, tasks - done);
    parallel(pool, group, 1, [=, &pool](int64_t task, int64_t, int worker) {
      const int64_t at = (done + task) * columns, cols = min64(columns, d - at);
      float* pairs = (float*)pool.scratch(worker, (columns / kWidth * pairs_size + (k + 3) * VL) * 4);
      float* lanes = pairs + columns / kWidth * pairs_size;
      load_pairs(used, w + at, d, cols, pairs);
      double total = 0;
      for (int64_t c = 0; c < cols; c += kWidth)
        total += walk_columns(used, bias + at + c, target + at + c, error + at + c, pull + at + c, d,
                              min64(kWidth, cols - c), pairs + c / kWidth * pairs_size, dots + task * n, lanes, c == 0);
      sums[done + task] = total;
      store_gradients(used, pairs, cols, dw + at, d);
    });
    parallel(pool, b, 64, [=](int64_t begin, int64_t end, int) {
      double total = 0;
      int64_t at = used.start[begin];
      for (int64_t i = begin * k; i < end * k; i++) {
        if (done == 0) d_values[i] = 0;
        if (values[i] == 0) continue;
        for (int64_t g = 0; g < group; g++) d_values[i] += dots[g * n + at];
        total += (double)values[i] * d_values[i];
        at++;
      }
      sums[tasks + begin / 64] = total;
    });
    done += group;
  } while (done < tasks);
  double total = 0;
  for (int64_t i = 0; i < tasks + spans; i++) total += sums[i];
  *args.ptr<float>(6) = (float)(total / (double)b);
}

// ---- slots of a batch

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
  r.add("prefixLoss", prefix_loss);
  r.add("keepLargest", keep_largest);
  r.add("groupPrefixes", group_prefixes);
}

}  // namespace prims

using prims::register_prefix;
