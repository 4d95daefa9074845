// Product and selection in one, for any score that is made of a few columns of x wT: the product is never written out.
// A task owns a block of rows and walks over the columns: a tile of the product lands in the worker's cache, every row
// compares its scores with a threshold (a lower bound of its k-th best so far) and keeps the few that pass in a list,
// which is cut back when full. Exact: the lists always contain the k best. Bound by the arithmetic of the product.
//
// What is selected is a struct S with
//   List, Pick                       the candidates of a row; a key, or a struct with one, that survives a part
//   x, w, rows, width, k, capacity   x [rows, width] and rows of w; the room of a list
//   columns(), tile()                packed columns, and those between two looks at the lists
//   pack(pool, j, n, packed)         packs columns [j, j + n) as pack_b does
//   scan(list, c, j, n, work)        offers the scores of the products c of columns j ... to a list
//   natural(), stretch()             rows of w, and those of them at a time, for products that are not packed
//   scanNatural(list, c, j, n, work) the same as scan for these
//   threshold()                      what a score must exceed (reach, if the list says so) to count at all
//   workFloats()                     further scratch
//   collect(list, work)              the list as picks in work.picks
//   write(picks, n, row)             the final result of a row; spoils the picks, has room for 2 n of them

constexpr int64_t TOPK_TILE = 256;                        // columns between two looks at the lists
constexpr int64_t kTopKPackFloats = int64_t(16) << 20;    // more of w than that is done in several rounds

/** The candidates of one row. */
struct TopList {
  static constexpr int64_t kArrays = 2;
  float* values;
  int32_t* indices;
  int64_t count;
  float threshold;  // what is below it, and for some scans what is equal, cannot be among the k best

  void place(float* memory, int64_t capacity) {
    values = memory;
    indices = reinterpret_cast<int32_t*>(memory + capacity);
  }
  SLUICE_INLINE void move(int64_t to, int64_t from) {
    values[to] = values[from];
    indices[to] = indices[from];
  }
  /** Moves those of the vector at `from` that the bits name, packed; to <= from. */
  SLUICE_INLINE void moveSome(int64_t to, int64_t from, uint32_t bits) {
    vcompress(values + to, indices + to, vload(values + from), viload(indices + from), bits);
  }
};

/** A list is cut when four vectors no longer fit; a quarter of 256 is room enough for them after any cut. */
static int64_t topk_capacity(int64_t k) { return round_up(k <= 64 ? 6 * k + 256 : 2 * k + 384, VL); }

/** Cuts a full list back to little more than k: a threshold by bisection; exact selection when ties or NaN defeat it. */
template <class List>
static __attribute__((noinline)) void topk_cut(List& list, int64_t k, uint64_t* keys) {
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
  int64_t at = 0;
  if (kept <= n - n / 4) {
    for (int64_t i = 0; i < n; i += VL) {
      const uint32_t bits = vmovemask(~(vload(v + i) <= vset(best)));
      list.moveSome(at, i, bits);
      at += __builtin_popcount(bits);
    }
    list.threshold = best;
  } else {
    make_keys(v, list.indices, n, keys);
    memcpy(keys + n, keys, static_cast<size_t>(n) * 8);
    const int64_t chosen = select_best(keys + n, n, k);
    uint64_t last = keys[n];
    for (int64_t i = 1; i < chosen; i++) last = keys[n + i] < last ? keys[n + i] : last;
    float lowest = INFINITY;  // stays so when all of them are NaN
    for (int64_t i = 0; i < n; i++) {
      const bool keep = keys[i] >= last;
      if (keep && v[i] < lowest) lowest = v[i];
      list.move(at, i);
      at += keep;
    }
    list.threshold = lowest;
  }
  list.count = at;
}

/** The scratch of a worker, or of a row that is finished. */
template <class S>
struct TopWork {
  uint64_t* keys;  // [2 capacity]
  typename S::Pick* picks;
  float* floats;
  char* rest;

  static int64_t bytes(const S& s) {
    return 2 * s.capacity * (8 + static_cast<int64_t>(sizeof(typename S::Pick))) + s.workFloats() * 4 + 192;
  }
  TopWork(const S& s, void* memory) : rest(static_cast<char*>(memory)) {
    keys = take<uint64_t>(2 * s.capacity);
    picks = take<typename S::Pick>(2 * s.capacity);
    floats = take<float>(s.workFloats());
  }
  template <class E>
  E* take(int64_t n) {
    E* p = reinterpret_cast<E*>(rest);
    rest += round_up(n * static_cast<int64_t>(sizeof(E)), 64);
    return p;
  }
};

template <class S>
static int64_t topk_list_bytes(const S& s, int64_t rows) {
  return rows * (S::List::kArrays * s.capacity * 4 + static_cast<int64_t>(sizeof(typename S::List))) + 128;
}

/** Empty lists for `rows` rows. */
template <class S>
static typename S::List* topk_lists(const S& s, int64_t rows, char* memory) {
  using List = typename S::List;
  List* lists = reinterpret_cast<List*>(memory);
  float* floats = reinterpret_cast<float*>(memory + round_up(rows * static_cast<int64_t>(sizeof(List)), 64));
  for (int64_t i = 0; i < rows; i++) {
    lists[i].count = 0;
    lists[i].threshold = s.threshold();
    lists[i].place(floats + i * List::kArrays * s.capacity, s.capacity);
  }
  return lists;
}

/**
 * The k best of every row as picks [part][row][k] with their counts, or, if there is one part only, final results.
 * Parts are ranges of columns: rounds of packing, and more where there are too few rows for all threads.
 */
template <class S>
struct TopParts {
  typename S::Pick* picks;
  int32_t* counts;
};

template <class S>
static void topk_finish_row(const S& s, typename S::List& list, int64_t part, int64_t row, const TopWork<S>& work,
                            const TopParts<S>& parts) {
  if (list.count > s.k + s.k / 2) topk_cut(list, s.k, work.keys);
  s.collect(list, work);
  if (!parts.picks) return s.write(work.picks, list.count, row);
  const int64_t n = select_best(work.picks, list.count, s.k);
  memcpy(parts.picks + (part * s.rows + row) * s.k, work.picks, static_cast<size_t>(n) * sizeof(*work.picks));
  parts.counts[part * s.rows + row] = static_cast<int32_t>(n);
}

/** Few rows: packing w would cost more than the product. */
template <class S>
static bool topk_few_rows(const S& s) {
  Gemm g = {};
  g.m = s.rows, g.k = s.width, g.brs = g.acs = 1;
  return gemm_is_small(g);
}

/** Without packing: a stretch of rows of w at a time through the ordinary product, for blocks of rows of x. */
template <class S>
static void topk_stretches(Pool& pool, const S& s) {
  const int64_t stretch = s.stretch(), block = min_of(s.rows, 256), natural = s.natural();
  const int64_t product_bytes = round_up(block * stretch * 4, 64);
  char* memory = static_cast<char*>(pool.shared(product_bytes + topk_list_bytes(s, block), 2));  // gemm has the others
  float* products = reinterpret_cast<float*>(memory);
  for (int64_t r0 = 0; r0 < s.rows; r0 += block) {
    const int64_t rows = min_of(block, s.rows - r0);
    typename S::List* lists = topk_lists(s, rows, memory + product_bytes);
    Gemm g = {};
    g.a = s.x + r0 * s.width, g.ars = s.width, g.acs = 1, g.m = rows, g.k = s.width;
    g.bdtype = F32, g.brs = 1, g.bcs = s.width, g.c = products, g.ldc = stretch, g.batch = 1;
    for (int64_t j = 0; j < natural; j += stretch) {
      g.b = s.w + j * s.width, g.n = min_of(stretch, natural - j);
      gemm_run(pool, g);
      const bool last = j + g.n == natural;
      pool.parallelFor(rows, 1 + 16384 / g.n, [&](int64_t begin, int64_t end, int worker) {
        const TopWork<S> work(s, pool.scratch(worker, TopWork<S>::bytes(s)));
        for (int64_t i = begin; i < end; i++) {
          s.scanNatural(lists[i], products + i * stretch, j, g.n, work);
          if (last) topk_finish_row(s, lists[i], 0, r0 + i, work, TopParts<S>{});
        }
      });
    }
  }
}

/** The product of `rows` rows (packed in a) with columns [first, first + cols) of a packed block: into tile. */
static void topk_product(int64_t width, const float* a, int64_t rows, const float* packed, int64_t panels, int64_t first,
                         int64_t cols, float* tile, int64_t pitch) {
  const int64_t kc = k_slice(width);
  for (int64_t k0 = 0; k0 == 0 || k0 < width; k0 += kc) {
    const int64_t kn = min_of(kc, width - k0), padded = round_up(rows, MR);
    for (int64_t q = 0; q < cols; q += NR) {
      const float* b = packed + k0 * panels * NR + (first + q) * kn;
      for (int64_t i = 0; i < rows; i += MR)
        kGemmMicro[min_of(MR, rows - i)](kn, a + k0 * padded + i * kn, b, tile + i * pitch + q, pitch, k0 > 0);
    }
  }
}

/** Packed and in tiles. */
template <class S>
static void topk_tiles(Pool& pool, const S& s) {
  using List = typename S::List;
  using Pick = typename S::Pick;
  const int64_t threads = pool.threads(), width = s.width > 0 ? s.width : 1, tile = s.tile(), columns = s.columns();
  const int64_t packable = kTopKPackFloats / width / tile * tile;
  const int64_t round = min_of(round_up(columns, tile), packable > tile ? packable : tile);
  const int64_t rounds = ceil_div(columns, round);
  int64_t blocks = ceil_div(s.rows, MC);
  while (threads > 1 && blocks < 8 * threads && s.rows / blocks >= 8 * MR) blocks++;
  const int64_t tm = round_up(ceil_div(s.rows, blocks), MR);
  blocks = ceil_div(s.rows, tm);
  int64_t split = 1;
  while (blocks * split < 2 * threads && round / split >= 4 * tile && threads > 1) split *= 2;
  const int64_t span = round_up(ceil_div(round, split), tile), parts = rounds * split;

  TopParts<S> out = {nullptr, nullptr};
  if (parts > 1) {
    out.picks = static_cast<Pick*>(pool.shared(parts * s.rows * s.k * static_cast<int64_t>(sizeof(Pick)), 1));
    out.counts = static_cast<int32_t*>(pool.shared(parts * s.rows * 4, 2));
  }
  float* packed = static_cast<float*>(pool.shared(width * round * 4));
  const int64_t a_bytes = round_up(tm * s.width * 4, 64), tile_bytes = round_up(tm * tile * 4, 64);
  const int64_t bytes = TopWork<S>::bytes(s) + a_bytes + tile_bytes + topk_list_bytes(s, tm);
  Gemm g = {};
  g.a = s.x, g.ars = s.width, g.acs = 1;

  for (int64_t r = 0; r < rounds; r++) {
    const int64_t j0 = r * round, jn = min_of(round, columns - j0), panels = ceil_div(jn, NR);
    s.pack(pool, j0, jn, packed);
    pool.parallelFor(blocks * split, 1, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t task = begin; task < end; task++) {
        const int64_t i0 = task % blocks * tm, rows = min_of(tm, s.rows - i0), part = task / blocks;
        char* memory = static_cast<char*>(pool.scratch(worker, bytes));
        float* a = reinterpret_cast<float*>(memory);
        float* c = reinterpret_cast<float*>(memory + a_bytes);
        List* lists = topk_lists(s, rows, memory + a_bytes + tile_bytes);
        const TopWork<S> work(s, memory + a_bytes + tile_bytes + round_up(topk_list_bytes(s, tm), 64));
        const int64_t kc = k_slice(s.width);
        for (int64_t k0 = 0; k0 < s.width; k0 += kc)
          pack_a(g, 0, i0, rows, k0, min_of(kc, s.width - k0), a + k0 * round_up(rows, MR));
        const int64_t stop = min_of(jn, (part + 1) * span);
        for (int64_t q = part * span; q < stop; q += tile) {
          const int64_t cols = min_of(tile, stop - q);
          topk_product(s.width, a, rows, packed, panels, q, cols, c, tile);
          for (int64_t i = 0; i < rows; i++) s.scan(lists[i], c + i * tile, j0 + q, cols, work);
        }
        for (int64_t i = 0; i < rows; i++) topk_finish_row(s, lists[i], r * split + part, i0 + i, work, out);
      }
    });
  }
  if (parts == 1) return;
  pool.parallelFor(s.rows, 16, [&](int64_t begin, int64_t end, int worker) {
    Pick* picks = static_cast<Pick*>(pool.scratch(worker, parts * s.k * 2 * static_cast<int64_t>(sizeof(Pick))));
    for (int64_t row = begin; row < end; row++) {
      int64_t n = 0;
      for (int64_t p = 0; p < parts; p++) {
        const int64_t count = out.counts[p * s.rows + row];
        memcpy(picks + n, out.picks + (p * s.rows + row) * s.k, static_cast<size_t>(count) * sizeof(Pick));
        n += count;
      }
      s.write(picks, n, row);
    }
  });
}
