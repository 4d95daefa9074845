// Data movement and reductions: strided copies, row gathers, sums, maxima, top-k.
// Each task owns a range of the output. Long sums split into spans of fixed size whose partial results are added in
// order, in double. Bound by memory, except topk and argmax of short rows.

#include "prims.inl"

namespace prims {

static const int64_t kTile = 32;  // side of a transposed tile

template <class T>
static void copy_tiles(Pool& pool, const Loops<2>& l, T* dst, const T* src, int across) {
  // `across` is the dimension along which src is contiguous; dst is contiguous along the last one.
  const int last = l.nd - 1;
  const int64_t rows = l.dim[across], cols = l.dim[last];
  const int64_t row_tiles = ceil_div(rows, kTile), outer = l.total() / (rows * cols);
  const int64_t ds = l.stride[0][across], ss = l.stride[1][last];
  const int64_t d_in = l.stride[0][last];
  const Loops<2>* loops = &l;
  parallel(pool, outer * row_tiles, ceil_div(16384, kTile * cols), [=](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      int64_t rest = t / row_tiles, d0 = 0, s0 = 0;
      for (int d = last - 1; d >= 0; d--) {
        if (d == across) continue;
        d0 += rest % loops->dim[d] * loops->stride[0][d];
        s0 += rest % loops->dim[d] * loops->stride[1][d];
        rest /= loops->dim[d];
      }
      const int64_t r0 = t % row_tiles * kTile, r1 = min64(rows, r0 + kTile);
      T tile[kTile][kTile + 1];  // read whole lines first: rows of src often fall into the same cache sets
      for (int64_t c0 = 0; c0 < cols; c0 += kTile) {
        const int64_t c1 = min64(cols, c0 + kTile);
        for (int64_t c = c0; c < c1; c++)
          for (int64_t r = r0; r < r1; r++) tile[c - c0][r - r0] = src[s0 + r + c * ss];
        for (int64_t r = r0; r < r1; r++)
          for (int64_t c = c0; c < c1; c++) dst[d0 + r * ds + c * d_in] = tile[c - c0][r - r0];
      }
    }
  });
}

template <class T>
static void copy_as(Pool& pool, const Loops<2>& l, T* dst, const T* src) {
  const int last = l.nd - 1;
  const int64_t ds = l.stride[0][last], ss = l.stride[1][last];
  if (ss != 1 && ss != 0)
    for (int d = 0; d < last; d++)
      if (l.stride[1][d] == 1) return copy_tiles(pool, l, dst, src, d);
  parallel(pool, l.total(), 16384, [&l, dst, src, ds, ss](int64_t begin, int64_t end, int) {
    l.runs(begin, end, [=](int64_t, const int64_t* at, int64_t n) {
      T* d = dst + at[0];
      const T* s = src + at[1];
      if (ds == 1 && ss == 1) {
        memcpy(d, s, n * sizeof(T));
      } else {
        for (int64_t i = 0; i < n; i++) d[i * ds] = s[i * ss];
      }
    });
  });
}

// args: dst, src, bytes per element (2 or 4), nd, dims[nd], strides of dst[nd], strides of src[nd]
static void copy_strided(Pool& pool, const Args& args) {
  const Loops<2> loops(args, 3);
  if (loops.total() == 0) return;
  if (args.i64(2) == 2) copy_as(pool, loops, args.ptr<uint16_t>(0), args.ptr<const uint16_t>(1));
  else copy_as(pool, loops, args.ptr<uint32_t>(0), args.ptr<const uint32_t>(1));
}

// args: dst, bytes
static void zero(Pool& pool, const Args& args) {
  char* dst = args.ptr<char>(0);
  parallel(pool, args.i64(1), 1 << 17, [=](int64_t begin, int64_t end, int) { memset(dst + begin, 0, end - begin); });
}

// The first index outside [0, rows), or -1 with ok set.
static bool indices_ok(const Args& args, const int32_t* indices, int64_t n, int64_t rows) {
  const uint32_t limit = (uint32_t)min64(rows, INT32_MAX);
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; i++) bad |= (uint32_t)indices[i] >= limit;
  if (!bad) return true;
  for (int64_t i = 0; i < n; i++)
    if ((uint32_t)indices[i] >= limit) {
      report_bad_index(args, indices[i]);
      break;
    }
  return false;
}

// args: table [rows, D], indices [M], out [M, D], rows, M, D, dtype of the table
static void gather_rows(Pool& pool, const Args& args) {
  const char* table = args.ptr<const char>(0);
  const int32_t* indices = args.ptr<const int32_t>(1);
  float* out = args.ptr<float>(2);
  const int64_t m = args.i64(4), d = args.i64(5);
  const int dtype = (int)args.i64(6);
  if (d == 0 || !indices_ok(args, indices, m, args.i64(3))) return;
  parallel(pool, m, ceil_div(8192, d), [=](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) half_load(table, indices[i] * d, out + i * d, d, dtype);
  });
}

// args: x [R, n], indices [R, k], out [R, k], R, n, k
static void take_last(Pool& pool, const Args& args) {
  const float* x = args.ptr<const float>(0);
  const int32_t* indices = args.ptr<const int32_t>(1);
  float* out = args.ptr<float>(2);
  const int64_t rows = args.i64(3), n = args.i64(4), k = args.i64(5);
  if (k == 0 || !indices_ok(args, indices, rows * k, n)) return;
  parallel(pool, rows, ceil_div(8192, k), [=](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++)
      for (int64_t j = r * k; j < (r + 1) * k; j++) out[j] = x[r * n + indices[j]];
  });
}

// args: values [R, k], indices [R, k], out [R, n], R, n, k; duplicates add in order
static void scatter_last(Pool& pool, const Args& args) {
  const float* values = args.ptr<const float>(0);
  const int32_t* indices = args.ptr<const int32_t>(1);
  float* out = args.ptr<float>(2);
  const int64_t rows = args.i64(3), n = args.i64(4), k = args.i64(5);
  if (n == 0 || !indices_ok(args, indices, rows * k, n)) return;
  parallel(pool, rows, ceil_div(16384, n), [=](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) {
      memset(out + r * n, 0, n * 4);
      for (int64_t j = r * k; j < (r + 1) * k; j++) out[r * n + indices[j]] += values[j];
    }
  });
}

// ---- reductions over the middle axis of [outer, n, inner] ----

struct SumOf {
  static SLUICE_INLINE float join(float a, float x) { return a + x; }
  static double row(const float* x, int64_t n) { return sum_blocked(x, n); }
  static double both(double a, double b) { return a + b; }
  static constexpr double start = 0;
};

struct MaxOf {
  static SLUICE_INLINE float join(float a, float x) { return (x > a) | (x != x) ? x : a; }  // NaN wins
  static double row(const float* x, int64_t n) {
    vf m0 = vset(-INFINITY), m1 = m0;
    int64_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
      const vf a = vload(x + i), b = vload(x + i + VL);
      m0 = vselect((a > m0) | (a != a), a, m0);
      m1 = vselect((b > m1) | (b != b), b, m1);
    }
    float lanes[2 * VL], best = -INFINITY;
    vstore(lanes, m0);
    vstore(lanes + VL, m1);
    for (float lane : lanes) best = join(best, lane);
    for (; i < n; i++) best = join(best, x[i]);
    return best;
  }
  static double both(double a, double b) { return (b > a) | (b != b) ? b : a; }
  static constexpr double start = -INFINITY;
};

// Rows of n contiguous numbers, split into spans: partial[row * spans + span].
template <class Op>
static void reduce_rows(Pool& pool, const float* x, float* out, int64_t rows, int64_t n) {
  const int64_t span = 8192, spans = ceil_div(n, span);
  if (spans <= 1) {
    parallel(pool, rows, ceil_div(8192, n), [=](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; r++) out[r] = (float)Op::row(x + r * n, n);
    });
    return;
  }
  double* partial = (double*)pool.shared(rows * spans * 8);
  parallel(pool, rows * spans, 1, [=](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      const int64_t from = t % spans * span;
      partial[t] = Op::row(x + t / spans * n + from, min64(span, n - from));
    }
  });
  for (int64_t r = 0; r < rows; r++) {
    double total = Op::start;
    for (int64_t s = 0; s < spans; s++) total = Op::both(total, partial[r * spans + s]);
    out[r] = (float)total;
  }
}

// Columns: spans of 128 rows, blocks of 512 columns; the running row of results stays in L1.
template <class Op>
static void reduce_columns(Pool& pool, const float* x, float* out, int64_t outer, int64_t n, int64_t inner) {
  const int64_t span = 128, spans = ceil_div(n, span), width = 512, blocks = ceil_div(inner, width);
  float* partial = spans > 1 ? (float*)pool.shared(outer * spans * inner * 4) : out;
  const int64_t work = min64(n, span) * min64(inner, width);
  parallel(pool, outer * spans * blocks, ceil_div(8192, work), [=](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      const int64_t part = t / blocks, c0 = t % blocks * width, c1 = min64(inner, c0 + width);
      const int64_t r0 = part % spans * span, r1 = min64(n, r0 + span);
      float* __restrict sum = partial + part * inner;
      const float* __restrict row = x + (part / spans * n + r0) * inner;
      for (int64_t c = c0; c < c1; c++) sum[c] = row[c];
      for (int64_t r = r0 + 1; r < r1; r++) {
        row += inner;
        for (int64_t c = c0; c < c1; c++) sum[c] = Op::join(sum[c], row[c]);
      }
    }
  });
  if (spans == 1) return;
  parallel(pool, outer * inner, ceil_div(8192, spans), [=](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      const float* p = partial + i / inner * spans * inner + i % inner;
      double total = Op::start;
      for (int64_t s = 0; s < spans; s++) total = Op::both(total, p[s * inner]);
      out[i] = (float)total;
    }
  });
}

// args: x [outer, n, inner], out [outer, inner], outer, n, inner
template <class Op>
static void reduce(Pool& pool, const Args& args) {
  const float* x = args.ptr<const float>(0);
  float* out = args.ptr<float>(1);
  const int64_t outer = args.i64(2), n = args.i64(3), inner = args.i64(4);
  if (n == 0) {
    for (int64_t i = 0; i < outer * inner; i++) out[i] = (float)Op::start;
  } else if (inner == 1) {
    reduce_rows<Op>(pool, x, out, outer, n);
  } else {
    reduce_columns<Op>(pool, x, out, outer, n, inner);
  }
}

// args: x [R, n], out i32 [R], R, n; the first of equal maxima, a NaN is the largest
static void argmax(Pool& pool, const Args& args) {
  const float* x = args.ptr<const float>(0);
  int32_t* out = args.ptr<int32_t>(1);
  const int64_t n = args.i64(3);
  parallel(pool, args.i64(2), ceil_div(8192, n), [=](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) {
      const float* row = x + r * n;
      const float best = (float)MaxOf::row(row, n);
      int64_t i = 0;
      while (i + VL <= n && !vany((vload(row + i) == best) | (vload(row + i) != vload(row + i)))) i += VL;
      while (i < n - 1 && !(row[i] == best || row[i] != row[i])) i++;
      out[r] = (int32_t)i;
    }
  });
}

// ---- topk ----

// Order-preserving key: larger value first, then lower index; every NaN is the same and the largest, -0 equals 0.
static SLUICE_INLINE uint64_t rank_key(float x, int64_t i) {
  uint32_t u;
  memcpy(&u, &x, 4);
  u = u & 0x80000000u ? ~u : u | 0x80000000u;
  if (x == 0) u = 0x80000000u;
  if (x != x) u = 0xffffffffu;
  return (uint64_t)u << 32 | (uint32_t)(0xffffffffu - (uint32_t)i);
}

// Moves the k largest keys to the front (quickselect, median of three; keys are distinct).
static void select_largest(uint64_t* a, int64_t n, int64_t k) {
  int64_t lo = 0, hi = n - 1;
  while (lo < hi) {
    const uint64_t x = a[lo], y = a[lo + (hi - lo) / 2], z = a[hi];
    const uint64_t pivot = x > y ? (y > z ? y : x > z ? z : x) : (x > z ? x : y > z ? z : y);
    int64_t i = lo, j = hi;
    while (i <= j) {
      while (a[i] > pivot) i++;
      while (a[j] < pivot) j--;
      if (i <= j) {
        const uint64_t t = a[i];
        a[i++] = a[j];
        a[j--] = t;
      }
    }
    if (k - 1 <= j) hi = j;
    else if (k - 1 >= i) lo = i;
    else return;
  }
}

static void sift_down(uint64_t* a, int64_t root, int64_t n) {
  const uint64_t x = a[root];
  for (int64_t child; (child = 2 * root + 1) < n; root = child) {
    if (child + 1 < n && a[child + 1] < a[child]) child++;
    if (a[child] >= x) break;
    a[root] = a[child];
  }
  a[root] = x;
}

// Heapsort with the smallest key on top: leaves the keys in descending order.
static void sort_descending(uint64_t* a, int64_t n) {
  for (int64_t i = n / 2 - 1; i >= 0; i--) sift_down(a, i, n);
  for (int64_t i = n - 1; i > 0; i--) {
    const uint64_t t = a[0];
    a[0] = a[i];
    a[i] = t;
    sift_down(a, 0, i);
  }
}

static void topk_row(const float* x, int64_t n, int64_t k, float* values, int32_t* indices, uint64_t* keys, int64_t room) {
  int64_t count = 0;
  float floor = -INFINITY;
  bool full = false;  // k candidates are known and `floor` is the least of them
  for (int64_t i = 0; i < n; i += 16) {
    const int64_t end = min64(n, i + 16);
    if (full && end - i == 16) {
      vi low = vload(x + i) <= floor;
      for (int j = VL; j < 16; j += VL) low &= vload(x + i + j) <= floor;
      if (!vany(~low)) continue;
    }
    for (int64_t j = i; j < end; j++)
      if (!full || !(x[j] <= floor)) keys[count++] = rank_key(x[j], j);
    if (count + 16 > room) {
      select_largest(keys, count, k);
      uint64_t least = keys[0];
      for (int64_t j = 1; j < k; j++) least = keys[j] < least ? keys[j] : least;
      floor = x[0xffffffffu - (uint32_t)least];
      full = true;
      count = k;
    }
  }
  select_largest(keys, count, k);
  sort_descending(keys, k);
  for (int64_t j = 0; j < k; j++) {
    indices[j] = (int32_t)(0xffffffffu - (uint32_t)keys[j]);
    values[j] = x[indices[j]];
  }
}

// args: x [R, n], values [R, k], indices [R, k], R, n, k
static void topk(Pool& pool, const Args& args) {
  const float* x = args.ptr<const float>(0);
  float* values = args.ptr<float>(1);
  int32_t* indices = args.ptr<int32_t>(2);
  const int64_t rows = args.i64(3), n = args.i64(4), k = args.i64(5);
  if (k == 0) return;
  const int64_t room = 2 * k + 256;
  Pool* scratch = &pool;
  parallel(pool, rows, ceil_div(8192, n), [=](int64_t begin, int64_t end, int worker) {
    uint64_t* keys = (uint64_t*)scratch->scratch(worker, room * 8);
    for (int64_t r = begin; r < end; r++) topk_row(x + r * n, n, k, values + r * k, indices + r * k, keys, room);
  });
}

static void register_shape(Registry& r) {
  r.add("copyStrided", copy_strided);
  r.add("zero", zero);
  r.add("gatherRows", gather_rows);
  r.add("takeLast", take_last);
  r.add("scatterLast", scatter_last);
  r.add("sum", reduce<SumOf>);
  r.add("max", reduce<MaxOf>);
  r.add("argmax", argmax);
  r.add("topk", topk);
}

}  // namespace prims

using prims::register_shape;
