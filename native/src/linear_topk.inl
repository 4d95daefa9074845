// Product and selection in one: the k largest of x wT + bias in each row, the product never written out.
// A task owns a block of rows and walks over the features: a tile of the product lands in the worker's cache, every
// row compares it with its threshold (a lower bound of its k-th best so far) and keeps the few that pass in a list,
// which is cut back when full. Exact: the lists always contain the k best. Bound by the arithmetic of the product.

constexpr int64_t TOPK_TILE = 256;                           // features between two looks at the lists
constexpr int64_t kTopKPackFloats = int64_t(16) << 20;       // features beyond it are done in several rounds

struct TopK {
  const float* x;     // [rows, width]
  const float* w;     // [features, width]
  const float* bias;  // [features] or null
  int64_t rows, features, width, k;
  bool relu;  // only positive values count
  int64_t capacity;
};

/** The candidates of one row. */
struct TopList {
  float* values;
  int32_t* indices;
  int64_t count;
  float threshold;  // what is not above it cannot be among the k best
};

/** A list is cut when four vectors no longer fit; a quarter of 256 is room enough for them after any cut. */
static int64_t topk_capacity(int64_t k) { return round_up(k <= 64 ? 6 * k + 256 : 2 * k + 384, VL); }

/** Cuts a full list back to little more than k: a threshold by bisection; exact selection when ties or NaN defeat it. */
static __attribute__((noinline)) void topk_cut(TopList& list, int64_t k, uint64_t* keys) {
  const int64_t n = list.count, enough = k + k / 4 + 4;
  float* v = list.values;
  for (int64_t i = n; i % VL; i++) v[i] = -INFINITY;
  vf least = vset(INFINITY), most = vset(-INFINITY);
  for (int64_t i = 0; i < n; i += VL) {
    vf x = vload(v + i);
    least = vmin(vselect(x == vset(-INFINITY), least, x), least);
    most = vmax(x, most);
  }
  float low = -vhmax(-least), high = vhmax(most), best = list.threshold;
  int64_t kept = n;
  for (int round = 0; round < 12 && kept > enough; round++) {
    const float middle = 0.5f * low + 0.5f * high;
    const vf m = vset(middle);
    vi above = vi{};
    for (int64_t i = 0; i < n; i += VL) above += ~(vload(v + i) <= m);
    int64_t count = 0;
    for (int i = 0; i < VL; i++) count -= above[i];
    if (count >= k) low = best = middle, kept = count;
    else high = middle;
  }
  if (kept <= n - n / 4) {
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
      const float x = v[i];
      v[at] = x;
      list.indices[at] = list.indices[i];
      at += !(x <= best);
    }
    list.count = at;
    list.threshold = best;
    return;
  }
  make_keys(v, list.indices, n, keys);
  list.count = select_best(keys, n, k);
  float last = INFINITY;
  for (int64_t i = 0; i < list.count; i++) {
    split_key(keys[i], v + i, list.indices + i);
    if (v[i] < last) last = v[i];
  }
  list.threshold = last;
}

/** The lanes of the mask go to the end of the list; a whole vector is written. */
static SLUICE_INLINE void topk_append(TopList& list, vf x, vi indices, vi mask) {
  const uint32_t bits = vmovemask(mask);
  vcompress(list.values + list.count, list.indices + list.count, x, indices, bits);
  list.count += __builtin_popcount(bits);
}

/** Offers the `cols` products at c, features j ..., to the list. */
static void topk_scan(const TopK& t, TopList& list, const float* c, int64_t j, int64_t cols, uint64_t* keys) {
  vf threshold = vset(list.threshold);
  const float* bias = t.bias ? t.bias + j : nullptr;
  const vi lanes = vlanes();
  int64_t i = 0;
  for (; i + 4 * VL <= cols; i += 4 * VL) {
    vf x[4];
    vi above = vi{};
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) {
      x[u] = vload(c + i + u * VL);
      if (bias) x[u] = x[u] + vload(bias + i + u * VL);
      above |= ~(x[u] <= threshold);
    }
    if (!vany(above)) continue;
    if (list.count + 4 * VL > t.capacity) {
      topk_cut(list, t.k, keys);
      threshold = vset(list.threshold);
    }
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) topk_append(list, x[u], lanes + static_cast<int32_t>(j + i + u * VL), ~(x[u] <= threshold));
  }
  for (; i < cols; i += VL) {
    const int64_t left = cols - i < VL ? cols - i : VL;
    vf x = vloadn(c + i, left);
    if (bias) x = x + vloadn(bias + i, left);
    vi mask = ~(x <= threshold) & (lanes < static_cast<int32_t>(left));
    if (!vany(mask)) continue;
    if (list.count + VL > t.capacity) {
      topk_cut(list, t.k, keys);
      threshold = vset(list.threshold);
      mask = mask & ~(x <= threshold);
    }
    topk_append(list, x, lanes + static_cast<int32_t>(j + i), mask);
  }
}

/** What a task needs beside the packed w, in the worker's scratch. */
struct TopScratch {
  float *a, *tile;
  uint64_t* keys;
  TopList* lists;

  static int64_t bytes(const TopK& t, int64_t rows) {
    return rows * (round_up(t.width, 8) * 4 + TOPK_TILE * 4 + t.capacity * 8 + static_cast<int64_t>(sizeof(TopList))) +
           t.capacity * 16 + 1024;
  }
  TopScratch(const TopK& t, int64_t rows, void* memory) {
    char* p = static_cast<char*>(memory);
    auto take = [&](int64_t size) {
      char* q = p;
      p += round_up(size, 64);
      return q;
    };
    a = reinterpret_cast<float*>(take(rows * t.width * 4));
    tile = reinterpret_cast<float*>(take(rows * TOPK_TILE * 4));
    keys = reinterpret_cast<uint64_t*>(take(t.capacity * 16));
    lists = reinterpret_cast<TopList*>(take(rows * static_cast<int64_t>(sizeof(TopList))));
    float* values = reinterpret_cast<float*>(take(rows * t.capacity * 4));
    int32_t* indices = reinterpret_cast<int32_t*>(take(rows * t.capacity * 4));
    for (int64_t i = 0; i < rows; i++)
      lists[i] = {values + i * t.capacity, indices + i * t.capacity, 0, t.relu ? 0.0f : -INFINITY};
  }
};

/** The product of rows [i0, i0 + rows) (packed in s.a) with the tile of features [j, j + cols): into s.tile. */
static void topk_product(const TopK& t, const TopScratch& s, int64_t rows, const float* packed, int64_t panels,
                         int64_t first, int64_t cols) {
  const int64_t kc = k_slice(t.width);
  for (int64_t k0 = 0; k0 == 0 || k0 < t.width; k0 += kc) {
    const int64_t kn = min_of(kc, t.width - k0), padded = round_up(rows, MR);
    for (int64_t q = 0; q < cols; q += NR) {
      const float* b = packed + k0 * panels * NR + (first + q) * kn;
      for (int64_t i = 0; i < rows; i += MR)
        kGemmMicro[min_of(MR, rows - i)](kn, s.a + k0 * padded + i * kn, b, s.tile + i * TOPK_TILE + q, TOPK_TILE,
                                         k0 > 0);
    }
  }
}

/**
 * The k best of every row as keys [part][row][k] with their counts, or, if there is one part only, final results.
 * Parts are ranges of features: rounds of packing, and more where there are too few rows for all threads.
 */
struct TopResult {
  uint64_t* keys;
  int32_t* counts;
  float* values;
  int32_t* indices;
};

static void topk_write(const TopK& t, uint64_t* keys, int64_t n, int64_t row, const TopResult& out) {
  // What never entered a list is at most 0 after relu, and -inf otherwise.
  write_best(keys, n, t.k, t.relu ? 0.0f : -INFINITY, out.values + row * t.k, out.indices + row * t.k);
}

static void topk_finish_row(const TopK& t, TopList& list, int64_t part, int64_t row, uint64_t* keys,
                            const TopResult& out) {
  if (list.count > t.k + t.k / 2) topk_cut(list, t.k, keys);
  make_keys(list.values, list.indices, list.count, keys);
  if (!out.keys) return topk_write(t, keys, list.count, row, out);
  const int64_t n = select_best(keys, list.count, t.k);
  memcpy(out.keys + (part * t.rows + row) * t.k, keys, static_cast<size_t>(n) * 8);
  out.counts[part * t.rows + row] = static_cast<int32_t>(n);
}

/** Few rows: packing w would cost more than the product, so a stretch of features at a time goes through gemm_small. */
static void linear_topk_few(Pool& pool, const TopK& t, Gemm g, const TopResult& out) {
  const int64_t stretch = 8192;
  float* products = static_cast<float*>(pool.shared(t.rows * stretch * 4));
  TopScratch s(t, t.rows, pool.shared(TopScratch::bytes(t, t.rows), 1));
  g.c = products, g.ldc = stretch, g.batch = 1;
  for (int64_t f0 = 0; f0 < t.features; f0 += stretch) {
    const int64_t fn = min_of(stretch, t.features - f0);
    g.b = t.w + f0 * t.width, g.n = fn;
    gemm_small(pool, g);
    const bool last = f0 + fn == t.features;
    pool.parallelFor(t.rows, 1 + 16384 / fn, [&](int64_t begin, int64_t end, int worker) {
      uint64_t* keys = static_cast<uint64_t*>(pool.scratch(worker, t.capacity * 16));
      for (int64_t i = begin; i < end; i++) {
        topk_scan(t, s.lists[i], products + i * stretch, f0, fn, keys);
        if (last) topk_finish_row(t, s.lists[i], 0, i, keys, out);
      }
    });
  }
}

static void linear_topk(Pool& pool, TopK t, float* values, int32_t* indices) {
  if (t.rows <= 0) return;
  t.capacity = topk_capacity(t.k);
  TopResult out = {nullptr, nullptr, values, indices};
  Gemm g = {};
  g.a = t.x, g.ars = t.width, g.acs = 1, g.m = t.rows, g.k = t.width;
  g.b = t.w, g.bdtype = F32, g.brs = 1, g.bcs = t.width, g.n = t.features;
  if (gemm_is_small(g)) return linear_topk_few(pool, t, g, out);
  const int64_t threads = pool.threads(), width = t.width > 0 ? t.width : 1;
  const int64_t packable = kTopKPackFloats / width / TOPK_TILE * TOPK_TILE;
  const int64_t round = min_of(round_up(t.features, TOPK_TILE), packable > TOPK_TILE ? packable : TOPK_TILE);
  const int64_t rounds = ceil_div(t.features, round);
  int64_t blocks = ceil_div(t.rows, MC);
  while (threads > 1 && blocks < 8 * threads && t.rows / blocks >= 8 * MR) blocks++;
  const int64_t tm = round_up(ceil_div(t.rows, blocks), MR);
  blocks = ceil_div(t.rows, tm);
  int64_t split = 1;
  while (blocks * split < 2 * threads && round / split >= 4 * TOPK_TILE && threads > 1) split *= 2;
  const int64_t span = round_up(ceil_div(round, split), TOPK_TILE), parts = rounds * split;

  if (parts > 1) {
    out.keys = static_cast<uint64_t*>(pool.shared(parts * t.rows * t.k * 8, 1));
    out.counts = static_cast<int32_t*>(pool.shared(parts * t.rows * 4, 2));
  }
  float* packed = static_cast<float*>(pool.shared(width * round * 4));

  for (int64_t r = 0; r < rounds; r++) {
    const int64_t f0 = r * round, fn = min_of(round, t.features - f0), panels = ceil_div(fn, NR);
    pack_b(pool, g, 0, 1, f0, fn, packed);
    pool.parallelFor(blocks * split, 1, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t task = begin; task < end; task++) {
        const int64_t i0 = task % blocks * tm, rows = min_of(tm, t.rows - i0), part = task / blocks;
        TopScratch s(t, tm, pool.scratch(worker, TopScratch::bytes(t, tm)));
        const int64_t kc = k_slice(t.width);
        for (int64_t k0 = 0; k0 < t.width; k0 += kc)
          pack_a(g, 0, i0, rows, k0, min_of(kc, t.width - k0), s.a + k0 * round_up(rows, MR));
        const int64_t stop = min_of(fn, (part + 1) * span);
        for (int64_t q = part * span; q < stop; q += TOPK_TILE) {
          const int64_t cols = min_of(TOPK_TILE, stop - q);
          topk_product(t, s, rows, packed, panels, q, cols);
          for (int64_t i = 0; i < rows; i++)
            topk_scan(t, s.lists[i], s.tile + i * TOPK_TILE, f0 + q, cols, s.keys);
        }
        for (int64_t i = 0; i < rows; i++) topk_finish_row(t, s.lists[i], r * split + part, i0 + i, s.keys, out);
      }
    });
  }
  if (parts == 1) return;
  pool.parallelFor(t.rows, 16, [&](int64_t begin, int64_t end, int worker) {
    uint64_t* keys = static_cast<uint64_t*>(pool.scratch(worker, parts * t.k * 16));
    for (int64_t row = begin; row < end; row++) {
      int64_t n = 0;
      for (int64_t p = 0; p < parts; p++) {
        const int64_t count = out.counts[p * t.rows + row];
        memcpy(keys + n, out.keys + (p * t.rows + row) * t.k, static_cast<size_t>(count) * 8);
        n += count;
      }
      topk_write(t, keys, n, row, out);
    }
  });
}

/** linearTopK: x, w, bias (or 0), values, indices, rows, features, width, k, relu (0: raw values, 1: relu'd). */
static void kernel_linear_topk(Pool& pool, const Args& args) {
  TopK t;
  t.x = args.ptr<float>(0), t.w = args.ptr<float>(1), t.bias = args.ptr<float>(2);
  t.rows = args.i64(5), t.features = args.i64(6), t.width = args.i64(7), t.k = args.i64(8);
  t.relu = args.i64(9) != 0;
  linear_topk(pool, t, args.ptr<float>(3), args.ptr<int32_t>(4));
}

static void register_linear_topk(Registry& r) { r.add("linearTopK", kernel_linear_topk); }
