// Sparse passes of a TopK step. B tokens, K active features each, D width, F features (rows of w).
// Forward gathers rows of w per token; backward turns the (token, feature) pairs into lists per feature by a stable
// counting sort, then sums each output row in L1 and writes it once: no atomics, and the order is that of the tokens.
// Bound by the last-level cache: matrices larger than it are walked in blocks of columns that fit.
// A slot of value 0 is unused: the lists leave it out, and decoding ends with the last used slot of a token.

#include "prims.inl"

namespace prims {

// Width of a column block of a [rows, d] matrix that is gathered from; depends on nothing but the shape. Blocks below
// 1 KiB a row cost more than the misses they save.
static int64_t column_block(int64_t rows, int64_t d) {
  const int64_t cache = 24 << 20, width = rows > 0 ? cache / (rows * 4) / 64 * 64 : 0;
  if (rows * d * 4 <= cache || width < 256) return d > 0 ? d : 1;
  return ceil_div(ceil_div(d, ceil_div(d, width)), 64) * 64;
}

// out[c] = from[c] + sum over g of coef[g] * row[g][c]; from may be out, or null for zero. Prefetches next[g].
template <int G>
static SLUICE_INLINE void add_rows(float* out, const float* from, const float* const* row, const float* coef,
                                   const float* const* next, int64_t n) {
  int64_t c = 0;
  for (; c + 16 <= n; c += 16) {
    for (int g = 0; g < G; g++) __builtin_prefetch(next[g] + c);
    for (int64_t i = c; i < c + 16; i += VL) {
      vf sum = from ? vload(from + i) : vf{};
      for (int g = 0; g < G; g++) sum = vfma(vset(coef[g]), vload(row[g] + i), sum);
      vstore(out + i, sum);
    }
  }
  for (; c < n; c++) {
    float sum = from ? from[c] : 0;
    for (int g = 0; g < G; g++) sum = coef[g] * row[g][c] + sum;
    out[c] = sum;
  }
}

// out = init + sum over j of coef[j] * x[index[j]], n columns, row pitch `pitch`. The `ahead` entries at `after` are read
// next by the caller: they are prefetched.
static void weighted_rows(float* out, const float* init, const float* x, int64_t pitch, const int32_t* index,
                          const float* coef, int64_t count, const int32_t* after, int64_t ahead, int64_t n) {
  if (count == 0) {
    if (init) memcpy(out, init, n * 4);
    else memset(out, 0, n * 4);
    return;
  }
  const float* from = init;
  int64_t j = 0;
  while (j < count) {
    const int64_t step = count - j >= 4 ? 4 : 1;
    const float *row[4], *next[4];
    for (int64_t g = 0; g < step; g++) {
      row[g] = x + index[j + g] * pitch;
      const int64_t later = j + 4 + g, beyond = later - count;
      next[g] = beyond < 0 ? x + index[later] * pitch : beyond < ahead ? x + after[beyond] * pitch : row[g];
    }
    if (step == 4) add_rows<4>(out, from, row, coef + j, next, n);
    else add_rows<1>(out, from, row, coef + j, next, n);
    from = out;
    j += step;
  }
}

// out[j] (+)= x . w[index[j]] over n columns, four rows at a time.
static void dot_rows(float* out, const float* x, const float* w, int64_t pitch, const int32_t* index, int64_t count,
                     int64_t ahead, int64_t n, bool add) {
  for (int64_t j = 0; j < count; j += 4) {
    const float *row[4], *next[4];
    for (int64_t g = 0; g < 4; g++) {
      row[g] = w + index[j + g < count ? j + g : count - 1] * pitch;
      next[g] = j + 4 + g < count + ahead ? w + index[j + 4 + g] * pitch : row[g];
    }
    vf s[4] = {}, t[4] = {};
    int64_t c = 0;
    for (; c + 2 * VL <= n; c += 2 * VL) {
      const vf x0 = vload(x + c), x1 = vload(x + c + VL);
      for (int g = 0; g < 4; g++) {
        __builtin_prefetch(next[g] + c);
        if (VL == 16) __builtin_prefetch(next[g] + c + 16);
        s[g] = vfma(x0, vload(row[g] + c), s[g]);
        t[g] = vfma(x1, vload(row[g] + c + VL), t[g]);
      }
    }
    for (int64_t g = 0; g < 4 && j + g < count; g++) {
      float sum = vhsum(s[g] + t[g]);
      for (int64_t i = c; i < n; i++) sum = x[i] * row[g][i] + sum;
      out[j + g] = add ? out[j + g] + sum : sum;
    }
  }
}

// Pairs by feature: entries start[f] .. start[f + 1] belong to row f, in the order of the tokens.
struct Lists {
  const int32_t* start;  // [rows + 1]
  const int32_t* token;  // [n]
  const float *a, *b;    // [n], the values; b only when given
  char* extra;
};

// Stable counting sort of those of n pairs that have a value other than 0, `per` pairs per token, in the pool's shared
// memory; start is null when an index is out of range. The spans only share the work: the result is the same for any
// number of them.
static Lists make_lists(Pool& pool, const Args& args, const int32_t* index, int64_t n, int64_t per, int64_t rows,
                        const float* a, const float* b, int64_t extra_bytes) {
  if (per < 1) per = 1;
  int64_t spans = n / 16384;
  spans = spans < 1 ? 1 : spans > 16 ? 16 : spans;
  const int64_t span = ceil_div(n, spans), padded = (rows + 16) / 16 * 16, lists = (n + 15) / 16 * 16;
  char* memory = (char*)pool.shared((padded + spans * padded + 3 * lists) * 4 + spans * 64 + extra_bytes + 64);
  int32_t* start = (int32_t*)memory;
  int32_t* places = start + padded;  // [spans, padded]
  int32_t* token = places + spans * padded;
  float* la = (float*)(token + lists);
  float* lb = la + lists;
  int64_t* bad = (int64_t*)(lb + lists);  // one per span, 64 bytes apart
  char* extra = (char*)(bad + spans * 8);

  const auto used = [=](int64_t e) { return !a || a[e] != 0 || (b && b[e] != 0); };
  parallel(pool, spans, 1, [=](int64_t s, int64_t, int) {
    int32_t* count = places + s * padded;
    memset(count, 0, padded * 4);
    bad[s * 8] = -1;
    for (int64_t e = s * span, end = min64(n, e + span); e < end; e++) {
      if ((uint32_t)index[e] < (uint64_t)rows) count[index[e]] += used(e);
      else bad[s * 8] = e;
    }
  });
  for (int64_t s = 0; s < spans; s++)
    if (bad[s * 8] >= 0) {
      report_bad_index(args, index[bad[s * 8]]);
      return Lists{nullptr, nullptr, nullptr, nullptr, nullptr};
    }
  int32_t total = 0;
  for (int64_t f = 0; f < rows; f++) {
    start[f] = total;
    for (int64_t s = 0; s < spans; s++) {
      const int32_t count = places[s * padded + f];
      places[s * padded + f] = total;
      total += count;
    }
  }
  start[rows] = total;
  parallel(pool, spans, 1, [=](int64_t s, int64_t, int) {
    int32_t* place = places + s * padded;
    const int64_t from = s * span, end = min64(n, from + span);
    int64_t t = from / per, left = per - from % per;
    for (int64_t e = from; e < end; e++) {
      if (used(e)) {
        const int32_t at = place[index[e]]++;
        token[at] = (int32_t)t;
        la[at] = a ? a[e] : 1.0f;
        if (b) lb[at] = b[e];
      }
      if (--left == 0) {
        t++;
        left = per;
      }
    }
  });
  return Lists{start, token, la, lb, extra};
}

// out[f] = sum over the list of f of value * x[token], for every row; adds the squares of row f to squares[f].
static void sum_lists(Pool& pool, const Lists& lists, const float* value, const float* x, float* out, int64_t rows,
                      int64_t d, int64_t tokens, double* squares) {
  const int64_t width = column_block(tokens, d), n = lists.start[rows];
  const int32_t *start = lists.start, *token = lists.token;
  for (int64_t c = 0; c < d; c += width) {
    const int64_t cols = min64(width, d - c);
    parallel(pool, rows, 8, [=](int64_t begin, int64_t end, int) {
      for (int64_t f = begin; f < end; f++) {
        const int64_t s = start[f], count = start[f + 1] - s;
        float* row = out + f * d + c;
        const int32_t* after = token + s + count;
        weighted_rows(row, nullptr, x + c, d, token + s, value + s, count, after, n - s - count, cols);
        if (squares && count) squares[f] += sum_squares(row, cols);
      }
    });
  }
}

// args: values [B, K], indices [B, K], x [B, D], out [rows, D], B, K, D, rows
static void sparse_outer(Pool& pool, const Args& args) {
  const int64_t b = args.i64(4), k = args.i64(5), d = args.i64(6), rows = args.i64(7);
  const Lists lists =
      make_lists(pool, args, args.ptr<const int32_t>(1), b * k, k, rows, args.ptr<const float>(0), nullptr, 0);
  if (lists.start) sum_lists(pool, lists, lists.a, args.ptr<const float>(2), args.ptr<float>(3), rows, d, b, nullptr);
}

// args: valuesA, xA, valuesB, xB, indices, outA [rows, D], outB [rows, D], sumB [rows], sumSquares [3], B, K,
// width of xA, width of xB, rows. sumSquares holds those of outA, outB and sumB, so that clipping needs no further pass.
static void sparse_outer_pair(Pool& pool, const Args& args) {
  const int64_t b = args.i64(9), k = args.i64(10), da = args.i64(11), db = args.i64(12);
  const int64_t rows = args.i64(13);
  const Lists lists = make_lists(pool, args, args.ptr<const int32_t>(4), b * k, k, rows, args.ptr<const float>(0),
                                 args.ptr<const float>(2), rows * 16);
  if (!lists.start) return;
  float* sum = args.ptr<float>(7);
  double* squares_a = (double*)lists.extra;
  double* squares_b = squares_a + rows;
  memset(squares_a, 0, rows * 16);
  sum_lists(pool, lists, lists.a, args.ptr<const float>(1), args.ptr<float>(5), rows, da, b, squares_a);
  sum_lists(pool, lists, lists.b, args.ptr<const float>(3), args.ptr<float>(6), rows, db, b, squares_b);
  double total[3] = {0, 0, 0};
  for (int64_t f = 0; f < rows; f++) {
    float s = 0;
    for (int32_t e = lists.start[f]; e < lists.start[f + 1]; e++) s += lists.b[e];
    sum[f] = s;
    total[0] += squares_a[f];
    total[1] += squares_b[f];
    total[2] += (double)s * s;
  }
  for (int i = 0; i < 3; i++) args.ptr<float>(8)[i] = (float)total[i];
}

// args: src [M, D], indices [M], out [rows, D], M, D, rows
static void scatter_add_rows(Pool& pool, const Args& args) {
  const int64_t m = args.i64(3), d = args.i64(4), rows = args.i64(5);
  const Lists lists = make_lists(pool, args, args.ptr<const int32_t>(1), m, 1, rows, nullptr, nullptr, 0);
  if (lists.start) sum_lists(pool, lists, lists.a, args.ptr<const float>(0), args.ptr<float>(2), rows, d, m, nullptr);
}

// args: values [n], indices [n], out [rows], n, rows
static void sparse_sum(Pool&, const Args& args) {
  const float* values = args.ptr<const float>(0);
  const int32_t* indices = args.ptr<const int32_t>(1);
  float* out = args.ptr<float>(2);
  const int64_t n = args.i64(3), rows = args.i64(4);
  if (!indices_ok(args, indices, n, rows)) return;
  memset(out, 0, rows * 4);
  for (int64_t i = 0; i < n; i++) out[indices[i]] += values[i];
}

static SLUICE_INLINE int64_t without_unused_end(const float* values, int64_t k) {
  while (k > 0 && values[k - 1] == 0) k--;
  return k;
}

// args: x [B, D], w [F, D], indices [B, K], values [B, K] or 0, out [B, K], B, K, D, F. Slots whose value is 0 get 0.
static void sparse_dot(Pool& pool, const Args& args) {
  const float* x = args.ptr<const float>(0);
  const float* w = args.ptr<const float>(1);
  const int32_t* index = args.ptr<const int32_t>(2);
  const float* values = args.ptr<const float>(3);
  float* out = args.ptr<float>(4);
  const int64_t b = args.i64(5), k = args.i64(6), d = args.i64(7), rows = args.i64(8);
  if (k == 0 || !indices_ok(args, index, b * k, rows)) return;
  const int64_t width = column_block(rows, d);
  for (int64_t c = 0; c == 0 || c < d; c += width) {
    const int64_t cols = min64(width, d - c);
    const bool last = c + width >= d;
    parallel(pool, b, 8, [=](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; t++) {
        const int64_t used = values ? without_unused_end(values + t * k, k) : k;
        // What stands ahead of a row that ends early is not what is read next.
        const int64_t ahead = used == k ? (end - t - 1) * k : 0;
        dot_rows(out + t * k, x + t * d + c, w + c, d, index + t * k, used, ahead, cols, c > 0);
        if (!values || !last) continue;
        for (int64_t j = 0; j < used; j++)
          if (values[t * k + j] == 0) out[t * k + j] = 0;
        memset(out + t * k + used, 0, (k - used) * 4);
      }
    });
  }
}

// args: values [B, K], indices [B, K], w [F, D], bias [D] or 0, out [B, D], B, K, D, F
static void sparse_decode(Pool& pool, const Args& args) {
  const float* values = args.ptr<const float>(0);
  const int32_t* index = args.ptr<const int32_t>(1);
  const float* w = args.ptr<const float>(2);
  const float* bias = args.ptr<const float>(3);
  float* out = args.ptr<float>(4);
  const int64_t b = args.i64(5), k = args.i64(6), d = args.i64(7), rows = args.i64(8);
  if (!indices_ok(args, index, b * k, rows)) return;
  const int64_t width = column_block(rows, d);
  for (int64_t c = 0; c < d; c += width) {
    const int64_t cols = min64(width, d - c);
    parallel(pool, b, 8, [=](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; t++)
        weighted_rows(out + t * d + c, bias ? bias + c : nullptr, w + c, d, index + t * k, values + t * k,
                      without_unused_end(values + t * k, k), index + (t + 1) * k, (end - t - 1) * k, cols);
    });
  }
}

// args: values [B, K], indices [B, K], w [F, D], bias [D] or 0, target [B, D], loss [], error [B, D],
// dots [B, K] or 0, B, K, D, F. loss = mean over B of |error|^2; dots[b, k] = error_b . w_idx, taken while the rows of
// w are still in the cache.
static void sparse_decode_loss(Pool& pool, const Args& args) {
  const float* values = args.ptr<const float>(0);
  const int32_t* index = args.ptr<const int32_t>(1);
  const float* w = args.ptr<const float>(2);
  const float* bias = args.ptr<const float>(3);
  const float* target = args.ptr<const float>(4);
  float* loss = args.ptr<float>(5);
  float* error = args.ptr<float>(6);
  float* dots = args.ptr<float>(7);
  const int64_t b = args.i64(8), k = args.i64(9), d = args.i64(10), rows = args.i64(11);
  if (!indices_ok(args, index, b * k, rows)) return;
  double* squares = (double*)pool.shared(b * 8 + 64);
  memset(squares, 0, b * 8);
  const int64_t width = column_block(rows, d);
  for (int64_t c = 0; c < d; c += width) {
    const int64_t cols = min64(width, d - c);
    parallel(pool, b, 8, [=](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; t++) {
        float* e = error + t * d + c;
        const float* y = target + t * d + c;
        const int64_t ahead = (end - t - 1) * k;
        weighted_rows(e, bias ? bias + c : nullptr, w + c, d, index + t * k, values + t * k,
                      without_unused_end(values + t * k, k), index + (t + 1) * k, dots ? 0 : ahead, cols);
        for (int64_t i = 0; i < cols; i++) e[i] -= y[i];
        squares[t] += sum_squares(e, cols);
        if (dots) dot_rows(dots + t * k, e, w + c, d, index + t * k, k, ahead, cols, c > 0);
      }
    });
  }
  double total = 0;
  for (int64_t t = 0; t < b; t++) total += squares[t];
  *loss = (float)(total / (double)b);
}

// args: lastFired i32 [F] (in place), values [n], indices [n], F, n, tokens
static void mark_fired(Pool&, const Args& args) {
  int32_t* last = args.ptr<int32_t>(0);
  const float* values = args.ptr<const float>(1);
  const int32_t* indices = args.ptr<const int32_t>(2);
  const int64_t rows = args.i64(3), n = args.i64(4), tokens = args.i64(5);
  if (!indices_ok(args, indices, n, rows)) return;
  for (int64_t f = 0; f < rows; f++) last[f] = (int32_t)min64(last[f] + tokens, INT32_MAX);
  for (int64_t i = 0; i < n; i++)
    if (values[i] > 0) last[indices[i]] = 0;
}

static void register_sparse(Registry& r) {
  r.add("sparseOuter", sparse_outer);
  r.add("sparseOuterPair", sparse_outer_pair);
  r.add("scatterAddRows", scatter_add_rows);
  r.add("sparseSum", sparse_sum);
  r.add("sparseDot", sparse_dot);
  r.add("sparseDecode", sparse_decode);
  r.add("sparseDecodeLoss", sparse_decode_loss);
  r.add("markFired", mark_fired);
}

}  // namespace prims

using prims::register_sparse;
