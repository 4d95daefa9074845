// The encoder of a KronSAE: heads of m base and n extension pre-latents (rows of w, per head), whose m n products are the
// features. linearKronTopK selects by the passes of topk_run.inl: w is packed so that a tile holds groups of NR heads
// as [m + n][NR], and one pass over a group bounds the best product of every head; only heads whose bound reaches the
// row's threshold are multiplied out. mand is compared as u v, its root is taken of what was chosen.

enum KronProduct : int { KRON_MAND = 0, KRON_RELU = 1, KRON_RAW = 2 };

/** Candidates with the pair that each is the product of. */
struct KronList : TopList {
  static constexpr int64_t kArrays = 4;
  float *u, *v;

  void place(float* memory, int64_t capacity) {
    TopList::place(memory, capacity);
    u = memory + 2 * capacity;
    v = memory + 3 * capacity;
  }
  SLUICE_INLINE void move(int64_t to, int64_t from) {
    TopList::move(to, from);
    u[to] = u[from];
    v[to] = v[from];
  }
  SLUICE_INLINE void moveSome(int64_t to, int64_t from, uint32_t bits) {
    TopList::moveSome(to, from, bits);
    vcompress(u + to, reinterpret_cast<int32_t*>(v + to), vload(u + from), vbits(vload(v + from)), bits);
  }
};

struct KronTopK {
  using List = KronList;
  using Pick = PairKey;
  const float* x;     // [rows, width]
  const float* w;     // [heads (m + n), width]
  const float* bias;  // [heads (m + n)]
  const float* grouped;  // the same as [group][m + n][NR], 0 behind the last head
  float *values, *base, *extension;  // [rows, k]
  int32_t* indices;                  // [rows, k]
  int64_t rows, heads, m, n, width, k;
  KronProduct product;
  int64_t capacity;

  int64_t size() const { return m + n; }
  int64_t groups() const { return ceil_div(heads, NR); }
  int64_t columns() const { return groups() * NR * size(); }
  int64_t tile() const { return NR * size() * (NR * size() < TOPK_TILE ? TOPK_TILE / (NR * size()) : 1); }
  int64_t natural() const { return heads * size(); }
  int64_t stretch() const { return min_of(heads, size() < 8192 ? 8192 / size() : 1) * size(); }
  /** A vector of heads either way round, each readable a vector beyond its end, and a group. */
  int64_t workFloats() const { return 2 * round_up(size(), TW) * VL + VL + size() * NR; }
  float threshold() const { return 1e-45f; }  // the smallest of all: not even what is equal to 0 counts

  void pack(Pool& pool, int64_t j, int64_t cols, float* packed) const;
  void scan(KronList& list, const float* c, int64_t j, int64_t cols, const TopWork<KronTopK>& work) const;
  void scanNatural(KronList& list, const float* c, int64_t j, int64_t cols, const TopWork<KronTopK>& work) const;
  void collect(const KronList& list, const TopWork<KronTopK>& work) const {
    make_keys(list.values, list.indices, list.count, work.keys);
    for (int64_t i = 0; i < list.count; i++) work.picks[i] = {work.keys[i], list.u[i], list.v[i]};
  }
  void write(PairKey* picks, int64_t count, int64_t row) const;
};

/** A panel is one pre-latent of NR neighbouring heads. */
void KronTopK::pack(Pool& pool, int64_t j, int64_t cols, float* packed) const {
  const int64_t panels = cols / NR, first = j / NR, kc = k_slice(width), slices = ceil_div(width, kc);
  pool.parallelFor(slices * panels, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      const int64_t panel = t % panels, k0 = t / panels * kc, kn = min_of(kc, width - k0);
      const int64_t head = (first + panel) / size() * NR, row = head * size() + (first + panel) % size();
      pack_panel<NR, LoadF32>(w + row * width + k0, size() * width, 1, min_of(NR, heads - head), kn,
                              packed + k0 * panels * NR + panel * kn * NR);
    }
  });
}

/** The end of a list, in registers while a tile is scanned: nothing shows the compiler that appending leaves it alone. */
struct KronCursor {
  KronList& list;
  const int64_t capacity, k;
  uint64_t* keys;
  float *const values, *const u, *const v;
  int32_t* const indices;
  int64_t count;
  vf threshold;

  SLUICE_INLINE KronCursor(const KronTopK& s, KronList& l, uint64_t* keys)
      : list(l), capacity(s.capacity), k(s.k), keys(keys), values(l.values), u(l.u), v(l.v), indices(l.indices),
        count(l.count), threshold(vset(l.threshold)) {}
  SLUICE_INLINE void makeRoom() {
    if (__builtin_expect(count + VL <= capacity, 1)) return;
    list.count = count;
    topk_cut(list, k, keys);
    count = list.count;
    threshold = vset(list.threshold);
  }
  /** Those of the products x y, of indices `index` ..., that are not below the threshold, as far as `mask` goes. */
  template <bool Raw>
  SLUICE_INLINE void offer(vf x, vf y, int64_t index, vi mask, bool finite) {
    makeRoom();
    const vf product = x * y;
    mask &= ~(product < threshold);
    if (!Raw && !finite) mask &= ~((x == 0.0f) | (y == 0.0f));  // off, even if the other one is NaN or infinite
    const uint32_t bits = vmovemask(mask);
    vcompress(values + count, indices + count, product, vlanes() + static_cast<int32_t>(index), bits);
    vcompress(u + count, reinterpret_cast<int32_t*>(v + count), x, vbits(y), bits);
    count += __builtin_popcount(bits);
  }
};

/**
 * Offers the products of one head: of u [m] and v [n] behind it, with anything behind that. `first` is the index of the
 * first one, `most` at least every v. Unless Raw, negative ones come as 0. All is finite if `finite`.
 */
template <bool Raw>
static SLUICE_INLINE void kron_multiply_out(KronCursor& end, const float* u, int64_t m, int64_t n, int64_t first,
                                            float most, bool finite) {
  if (2 * n <= VL && m + n <= VL && (n & (n - 1)) == 0) {
    // Several rows of the table of products at a time: all of u and v is in one vector.
    const vf both = vload(u);
    const int shift = __builtin_ctz(static_cast<uint32_t>(n));
    for (int64_t c = 0; c < m * n; c += VL) {
      const vi pair = vlanes() + static_cast<int32_t>(c);
      const vf x = vpermute(both, pair >> shift), y = vpermute(both, (pair & static_cast<int32_t>(n - 1)) + static_cast<int32_t>(m));
      end.offer<Raw>(x, y, first + c, pair < static_cast<int32_t>(m * n), finite);
    }
    return;
  }
  for (int64_t i = 0; i < m; i++) {
    if (!Raw && n > VL && finite && u[i] * most < end.threshold[0]) continue;
    for (int64_t j = 0; j < n; j += VL)
      end.offer<Raw>(vset(u[i]), vload(u + m + j), first + i * n + j, vlanes() < static_cast<int32_t>(n - j), finite);
  }
}

/** x [VL][pitch] from `lanes` [pitch][VL]; pitch is a multiple of TW. */
static SLUICE_INLINE void kron_transpose(const float* lanes, float* x, int64_t pitch) {
  typedef vt vt_u __attribute__((aligned(4), may_alias));
  for (int64_t e = 0; e < pitch; e += TW)
    for (int64_t l = 0; l < VL; l += TW) {
      vt block[TW];
#pragma GCC unroll 8
      for (int i = 0; i < TW; i++) block[i] = *reinterpret_cast<const vt_u*>(lanes + (e + i) * VL + l);
      transpose_block(block);
#pragma GCC unroll 8
      for (int i = 0; i < TW; i++) *reinterpret_cast<vt_u*>(x + (l + i) * pitch + e) = block[i];
    }
}

/** Offers `count` heads from `head` on, whose pre-latents are c (+ bias) [m + n][NR]; `work` as KronTopK::workFloats. */
template <bool Raw>
static SLUICE_INLINE void kron_scan_group(KronCursor& end, const float* c, const float* bias, int64_t m, int64_t n,
                                          int64_t head, int64_t count, float* work) {
  const int64_t all = m + n, pitch = round_up(all, TW);
  for (int64_t lane = 0; lane < count; lane += VL) {
    // Without Raw the bounds start at 0, which is what a negative one counts as. They pass over NaN.
    const vf top = vset(Raw ? -INFINITY : 0.0f), bottom = vset(INFINITY);
    vf poison = {}, mostU = top, mostV = top, leastU = bottom, leastV = bottom;
    const auto pre = [&](int64_t e) {
      const vf y = vload(c + e * NR + lane);
      return bias ? y + vload(bias + e * NR + lane) : y;
    };
    for (int64_t e = 0; e < m; e++) {
      const vf y = pre(e);
      poison += y * 0.0f;
      mostU = vmax(y, mostU);
      if (Raw) leastU = vmin(y, leastU);
    }
    for (int64_t e = m; e < all; e++) {
      const vf y = pre(e);
      poison += y * 0.0f;
      mostV = vmax(y, mostV);
      if (Raw) leastV = vmin(y, leastV);
    }
    vf bound = mostU * mostV;
    if (Raw) bound = vmax(leastU * leastV, bound);
    const vi doubtful = poison != poison;
    uint32_t wanted = vmovemask(~(bound < end.threshold) | doubtful);
    if (count - lane < VL) wanted &= (1u << (count - lane)) - 1;
    if (!wanted) continue;

    float *lanes = work, *heads = work + pitch * VL;
    for (int64_t e = 0; e < all; e++) vstore(lanes + e * VL, Raw ? pre(e) : vmax(vf{}, pre(e)));
    kron_transpose(lanes, heads, pitch);
    const bool finite = !vany(doubtful);
    for (; wanted; wanted &= wanted - 1) {
      const int at = __builtin_ctz(wanted);
      kron_multiply_out<Raw>(end, heads + at * pitch, m, n, (head + lane + at) * m * n, n > VL ? mostV[at] : 0, finite);
    }
  }
}

/** Offers the groups c [...][m + n][NR] of the heads from `head` on, all but the last group full. */
template <bool Raw>
static SLUICE_INLINE void kron_scan(const KronTopK& s, KronList& list, const float* c, const float* bias, int64_t m,
                                    int64_t n, int64_t head, int64_t count, const TopWork<KronTopK>& work) {
  KronCursor end(s, list, work.keys);
  for (int64_t done = 0; done < count; done += NR, c += NR * (m + n)) {
    kron_scan_group<Raw>(end, c, bias, m, n, head + done, min_of(NR, count - done), work.floats);
    if (bias) bias += NR * (m + n);
  }
  list.count = end.count;
  list.threshold = end.threshold[0];
}

void KronTopK::scan(KronList& list, const float* c, int64_t j, int64_t cols, const TopWork<KronTopK>& work) const {
  const int64_t head = j / size(), count = min_of(cols / size(), heads - head);
  if (product == KRON_RAW) kron_scan<true>(*this, list, c, grouped + j, m, n, head, count, work);
  else if (m == 4 && n == 4) kron_scan<false>(*this, list, c, grouped + j, 4, 4, head, count, work);
  else kron_scan<false>(*this, list, c, grouped + j, m, n, head, count, work);
}

/** Heads that lie in c one after the other: brought into groups first. */
void KronTopK::scanNatural(KronList& list, const float* c, int64_t j, int64_t cols,
                           const TopWork<KronTopK>& work) const {
  float* group = work.floats + 2 * round_up(size(), TW) * VL + VL;
  for (int64_t q = 0; q < cols; q += NR * size()) {
    const int64_t head = (j + q) / size(), count = min_of(NR, (cols - q) / size());
    for (int64_t e = 0; e < size(); e++)
      for (int64_t i = 0; i < NR; i++)
        group[e * NR + i] = i < count ? c[q + i * size() + e] + bias[j + q + i * size() + e] : 0;
    if (product == KRON_RAW) kron_scan<true>(*this, list, group, nullptr, m, n, head, count, work);
    else kron_scan<false>(*this, list, group, nullptr, m, n, head, count, work);
  }
}

void KronTopK::write(PairKey* picks, int64_t count, int64_t row) const {
  uint64_t* keys = reinterpret_cast<uint64_t*>(picks + count);
  float *value = values + row * k, *u = base + row * k, *v = extension + row * k;
  int32_t* index = indices + row * k;
  count = sort_best(picks, count, k);
  for (int64_t s = 0; s < count; s++) {
    u[s] = picks[s].u;
    v[s] = picks[s].v;
    keys[s] = picks[s].key;
    split_key(keys[s], value + s, index + s);
    if (product == KRON_MAND) value[s] = __builtin_sqrtf(value[s]);
  }
  for (int64_t s = count; s < k; s++) u[s] = v[s] = 0;
  fill_unused(keys, count, k, 0, value, index);
}

/** linearKronTopK: x, w, bias, values, indices, base, extension, rows, heads, m, n, width, k, product. */
static void kernel_linear_kron_topk(Pool& pool, const Args& args) {
  KronTopK s;
  s.x = args.ptr<float>(0), s.w = args.ptr<float>(1), s.bias = args.ptr<float>(2);
  s.values = args.ptr<float>(3), s.indices = args.ptr<int32_t>(4);
  s.base = args.ptr<float>(5), s.extension = args.ptr<float>(6);
  s.rows = args.i64(7), s.heads = args.i64(8), s.m = args.i64(9), s.n = args.i64(10);
  s.width = args.i64(11), s.k = args.i64(12), s.product = static_cast<KronProduct>(args.i64(13));
  s.capacity = round_up(s.k <= 64 ? 3 * s.k + 64 : 2 * s.k + 128, VL);
  if (s.rows <= 0) return;
  // Heads that are few or large do not fill groups.
  const bool fills = 8 * (s.groups() * NR - s.heads) <= s.heads && NR * s.size() <= 16384;
  if (topk_few_rows(s) || !fills) return topk_stretches(pool, s);
  float* grouped = static_cast<float*>(pool.shared(s.columns() * 4, 3));
  memset(grouped, 0, static_cast<size_t>(s.columns()) * 4);
  for (int64_t head = 0; head < s.heads; head++)
    for (int64_t e = 0; e < s.size(); e++)
      grouped[(head / NR * s.size() + e) * NR + head % NR] = s.bias[head * s.size() + e];
  s.grouped = grouped;
  topk_tiles(pool, s);
}

/** kronSpread: dValues, values, indices, base, extension, rowValues, rowIndices, rows, k, m, n, product. */
static void kernel_kron_spread(Pool& pool, const Args& args) {
  const float* gradient = args.ptr<const float>(0);
  const float* values = args.ptr<const float>(1);
  const int32_t* indices = args.ptr<const int32_t>(2);
  const float* base = args.ptr<const float>(3);
  const float* extension = args.ptr<const float>(4);
  float* row_values = args.ptr<float>(5);
  int32_t* row_indices = args.ptr<int32_t>(6);
  const int64_t rows = args.i64(7), k = args.i64(8);
  const int32_t m = static_cast<int32_t>(args.i64(9)), n = static_cast<int32_t>(args.i64(10));
  const bool mand = args.i64(11) == KRON_MAND;
  if (!prims::indices_ok(args, indices, rows * k, INT32_MAX)) return;
  pool.parallelFor(rows, 1 + 4096 / (k + 1), [=](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++)
      for (int64_t s = 0; s < k; s++) {
        const int64_t from = row * k + s, to = 2 * row * k + s;
        const float u = base[from], v = extension[from], g = gradient[from];
        const bool on = values[from] != 0;
        row_values[to] = !on ? 0 : mand ? 0.5f * __builtin_sqrtf(v / u) * g : v * g;
        row_values[to + k] = !on ? 0 : mand ? 0.5f * __builtin_sqrtf(u / v) * g : u * g;
        const int32_t whole = indices[from] / n, head = whole / m * (m + n);
        row_indices[to] = head + whole % m;
        row_indices[to + k] = head + m + indices[from] % n;
      }
  });
}

/** kronScores: pre [rows heads, m + n], scores [rows heads, m n], rows heads, m, n, product. */
static void kernel_kron_scores(Pool& pool, const Args& args) {
  const float* pre = args.ptr<const float>(0);
  float* scores = args.ptr<float>(1);
  const int64_t heads = args.i64(2), m = args.i64(3), n = args.i64(4), product = args.i64(5);
  pool.parallelFor(heads, 1 + 16384 / (m * n), [=](int64_t begin, int64_t end, int) {
    for (int64_t head = begin; head < end; head++) {
      const float *base = pre + head * (m + n), *extension = base + m;
      for (int64_t i = 0; i < m; i++) {
        const float u = base[i];
        float* out = scores + (head * m + i) * n;
        if (product == KRON_RAW)
          for (int64_t j = 0; j < n; j++) out[j] = u * extension[j] < 0 ? 0 : u * extension[j];
        else
          for (int64_t j = 0; j < n; j++) out[j] = u <= 0 || extension[j] <= 0 ? 0 : u * extension[j];
      }
    }
    if (product != KRON_MAND) return;
    float* z = scores + begin * m * n;
    const int64_t count = (end - begin) * m * n;
    int64_t c = 0;
    for (; c + VL <= count; c += VL) vstore(z + c, vsqrt(vload(z + c)));
    for (; c < count; c++) z[c] = __builtin_sqrtf(z[c]);
  });
}

static void register_kron(Registry& r) {
  r.add("linearKronTopK", kernel_linear_kron_topk);
  r.add("kronSpread", kernel_kron_spread);
  r.add("kronScores", kernel_kron_scores);
}
