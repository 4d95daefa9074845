// Attention without a [T, T] matrix: tiles of kKeys keys stay in L1, the softmax is renormalised tile by tile.
// Layout: q [B, T, H, D], k and v [B, S, G, D]. The H/G heads of a group form one list of rows, r = t * (H/G) + head,
// so they share the packed keys. Keys are packed transposed (scores vectorise over keys), values as rows.
// Threads own (batch, group, range of rows) forwards and (batch, group) backwards; nothing is shared. Tiles start at
// multiples of kKeys and masked weights are exact zeros, so the bits depend neither on threads nor on the row ranges.
// Segments in order, as packed documents have, narrow what a row sees to a range of keys; in any other order they are compared.
// Scores carry a factor log2(e), so that weights are powers of two.
// Bound by arithmetic; decoding (few rows) by memory.

namespace attn {

constexpr int64_t kKeys = 128;                  // keys per tile
constexpr int64_t kRows = VL == 16 ? 56 : 48;  // rows per tile of the gradient, a multiple of MR
constexpr float kMasked = -1e30f;              // start of the running maximum
constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;

// 2^x for x <= 0 (up to 126 works), within 2e-7; exactly 0 from -127 down.
static SLUICE_INLINE vf exp2Neg(vf x) {
  const vf c = vmax(vset(-127.0f), x), magic = vset(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const vf t = c + magic;
  const vf r = c - (t - magic);
  vf y = vfma(vset(1.326472707e-3f), r, vset(9.671512649e-3f));
  y = vfma(y, r, vset(5.550733744e-2f));
  y = vfma(y, r, vset(2.402224209e-1f));
  y = vfma(y, r, vset(6.931469776e-1f));
  y = vfma(y, r, vset(1.0f));
  return vfrombits(vbits(y) + (vbits(t) << 23));
}

struct Problem {
  const float* q;
  const void *k, *v;
  const int32_t* segments;  // [B, T] or null; ids in no order, which are compared
  const int32_t* runs;      // [B, T, 2] or null: first key of the query's segment and the one behind its last; S = T
  const int32_t* starts;    // [B] or null: first key that is seen
  int64_t B, T, S, H, G, D;
  int64_t keyRows;  // keys allocated per batch
  float scale, softcap;
  int64_t causal, window;

  SLUICE_INLINE int64_t reps() const { return H / G; }
  SLUICE_INLINE int64_t rows() const { return T * reps(); }
  SLUICE_INLINE int64_t query(int64_t r) const { return uint32_t(r) / uint32_t(reps()); }
  SLUICE_INLINE int64_t width() const { return (D + VL - 1) / VL * VL; }
  // Row r sees the keys [first(b, r), last(b, r)); neither falls as r grows.
  SLUICE_INLINE int64_t last(int64_t b, int64_t r) const {
    const int64_t end = causal ? S - T + query(r) + 1 : runs ? run(b, query(r))[1] : S;
    return end < 0 ? 0 : end;
  }
  SLUICE_INLINE int64_t first(int64_t b, int64_t r) const {
    const int64_t start = starts ? starts[b] : runs ? run(b, query(r))[0] : 0;
    const int64_t begin = window ? S - T + query(r) - window + 1 : 0;
    return begin > start ? begin : start;
  }
  // The rows that see any of the keys [j0, j1) are [rowsFrom(b, j0), rowsTo(b, j1)), apart from starts.
  SLUICE_INLINE int64_t rowsFrom(int64_t b, int64_t j0) const {
    if (causal) return j0 > S - T ? (j0 - (S - T)) * reps() : 0;
    return runs ? run(b, j0)[0] * reps() : 0;
  }
  SLUICE_INLINE int64_t rowsTo(int64_t b, int64_t j1) const {
    int64_t queries = runs ? run(b, j1 - 1)[1] : T;
    if (window && j1 - 1 + window - (S - T) < queries) queries = j1 - 1 + window - (S - T);
    return queries < 0 ? 0 : queries * reps();
  }
  SLUICE_INLINE const int32_t* run(int64_t b, int64_t t) const { return runs + 2 * (b * T + t); }
  SLUICE_INLINE int64_t segment(int64_t b, int64_t r) const { return segments[b * T + query(r)]; }
  // Element offset of row r in q and out.
  SLUICE_INLINE int64_t at(int64_t b, int64_t g, int64_t r) const {
    return ((b * T + query(r)) * H + g * reps() + r - query(r) * reps()) * D;
  }
  SLUICE_INLINE int64_t keyAt(int64_t b, int64_t g, int64_t j) const { return ((b * keyRows + j) * G + g) * D; }
  SLUICE_INLINE int64_t lseAt(int64_t b, int64_t g, int64_t r) const {
    return (b * H + g * reps() + r - query(r) * reps()) * T + query(r);
  }
};

// ---- small products: C [rows, n] (+)= A [rows, depth] B [depth, n], n a multiple of VL ----
// kT: A is stored transposed, A(i, k) = a[k * lda + i].

template <int R, int NV, bool kT>
static SLUICE_INLINE void block(int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                                int64_t ldc, bool add) {
  vf acc[R][NV];
#pragma GCC unroll 14
  for (int i = 0; i < R; i++)
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) acc[i][j] = vf{};
#pragma GCC unroll 2
  for (int64_t k = 0; k < depth; k++) {
    vf bv[NV];
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) bv[j] = vload(b + k * ldb + j * VL);
#pragma GCC unroll 14
    for (int i = 0; i < R; i++) {
      const vf av = vset(kT ? a[k * lda + i] : a[i * lda + k]);
#pragma GCC unroll 2
      for (int j = 0; j < NV; j++) acc[i][j] = vfma(av, bv[j], acc[i][j]);
    }
  }
#pragma GCC unroll 14
  for (int i = 0; i < R; i++)
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) {
      float* p = c + i * ldc + j * VL;
      vstore(p, add ? vload(p) + acc[i][j] : acc[i][j]);
    }
}

template <int R, bool kT>
static void panelOf(int64_t n, int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                    int64_t ldc, bool add) {
  int64_t j = 0;
  for (; j + 2 * VL <= n; j += 2 * VL) block<R, 2, kT>(depth, a, lda, b + j, ldb, c + j, ldc, add);
  if (j < n) block<R, 1, kT>(depth, a, lda, b + j, ldb, c + j, ldc, add);
}

template <bool kT, int R = MR>
static void panel(int64_t rows, int64_t n, int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb,
                  float* c, int64_t ldc, bool add) {
  if constexpr (R > 0) {
    if (rows == R) return panelOf<R, kT>(n, depth, a, lda, b, ldb, c, ldc, add);
    panel<kT, R - 1>(rows, n, depth, a, lda, b, ldb, c, ldc, add);
  }
}

// ---- packing ----

// Keys [j0, j0 + count) to [D, kKeys], zeros behind them.
template <class L>
static void packColumns(const Problem& p, const void* src, int64_t b, int64_t g, int64_t j0, int64_t count, float* to) {
  for (int64_t j = 0; j < count; j++) {
    const auto* row = static_cast<const typename L::T*>(src) + p.keyAt(b, g, j0 + j);
    for (int64_t d = 0; d < p.D; d++) to[d * kKeys + j] = L::one(row + d);
  }
  if (count < kKeys)
    for (int64_t d = 0; d < p.D; d++)
      for (int64_t j = count; j < kKeys; j++) to[d * kKeys + j] = 0;
}

// The same keys to [kKeys, width]; rows before `from` and the columns behind D are zeros.
template <class L>
static void packRows(const Problem& p, const void* src, int64_t b, int64_t g, int64_t j0, int64_t from, int64_t count,
                     float* to) {
  const int64_t width = p.width();
  for (int64_t j = 0; j < count; j++) {
    const auto* row = static_cast<const typename L::T*>(src) + p.keyAt(b, g, j0 + j);
    float* out = to + j * width;
    int64_t d = 0;
    if (j >= from) {
      for (; d + VL <= p.D; d += VL) vstore(out + d, L::vec(row + d));
      for (; d < p.D; d++) out[d] = L::one(row + d);
    }
    for (; d < width; d++) out[d] = 0;
  }
}

// Row r of a [B, T, H, D] array to `width` floats, times `scale`.
static SLUICE_INLINE void packRow(const float* src, int64_t D, int64_t width, float scale, float* to) {
  for (int64_t d = 0; d < D; d++) to[d] = src[d] * scale;
  for (int64_t d = D; d < width; d++) to[d] = 0;
}

// ---- what a row sees of a tile ----

struct Span {
  int64_t begin, end;  // columns of the tile, multiples of VL but for the end of the keys
};

// The columns of tile j0 that any of the rows [r0, r1) sees, widened to vectors; empty: begin >= end.
static SLUICE_INLINE Span visible(const Problem& p, int64_t b, int64_t r0, int64_t r1, int64_t j0) {
  int64_t begin = p.first(b, r0) - j0, end = p.last(b, r1 - 1) - j0;
  begin = begin < 0 ? 0 : begin / VL * VL;
  end = end > kKeys ? kKeys : (end + VL - 1) / VL * VL;
  return {begin, end};
}

// True when the segments of the rows and of the keys [j0, j0 + count) cannot meet; *same when all are one segment.
static bool apart(const Problem& p, int64_t b, int64_t r0, int64_t r1, int64_t j0, int64_t count, bool* same) {
  const int32_t* s = p.segments + b * p.T;
  int32_t rowMin = s[p.query(r0)], rowMax = rowMin, keyMin = s[j0], keyMax = keyMin;
  for (int64_t r = r0; r < r1; r++) {
    const int32_t x = s[p.query(r)];
    rowMin = x < rowMin ? x : rowMin;
    rowMax = x > rowMax ? x : rowMax;
  }
  for (int64_t j = j0; j < j0 + count; j++) {
    keyMin = s[j] < keyMin ? s[j] : keyMin;
    keyMax = s[j] > keyMax ? s[j] : keyMax;
  }
  *same = rowMin == rowMax && keyMin == keyMax && rowMin == keyMin;
  return rowMax < keyMin || rowMin > keyMax;
}

// Replaces what row r must not see by `fill`, in the columns [span.begin, span.end) of tile j0.
static void mask(const Problem& p, int64_t b, int64_t r, int64_t j0, Span span, bool bySegment, float fill, float* x) {
  const int64_t lo = p.first(b, r) - j0, hi = p.last(b, r) - j0;
  for (int64_t c = span.begin; c < lo && c < span.end; c += VL)
    vstore(x + c, vselect(vlanes() + int32_t(c) < int32_t(lo < kKeys ? lo : kKeys), vset(fill), vload(x + c)));
  const int64_t edge = hi > 0 ? hi / VL * VL : 0;
  for (int64_t c = edge > span.begin ? edge : span.begin; c < span.end; c += VL)
    vstore(x + c, vselect(vlanes() + int32_t(c) < int32_t(hi > 0 ? hi : 0), vload(x + c), vset(fill)));
  if (bySegment) {
    const int32_t* s = p.segments + b * p.T + j0;
    const int64_t id = p.segment(b, r), end = span.end < p.S - j0 ? span.end : p.S - j0;
    for (int64_t c = span.begin; c < end; c++) x[c] = s[c] == id ? x[c] : fill;
  }
}

static void softcapScores(float* x, Span span, float cap) {
  for (int64_t c = span.begin; c < span.end; c += VL) vstore(x + c, vtanh(vload(x + c) * (1.0f / cap)) * cap);
}

// ---- forward ----

// Scores of one row to weights 2^(s - max); updates the running maximum and the VL partial sums, rescales the row of O.
static SLUICE_INLINE void softmaxRow(float* x, Span span, float* max, float* sum, float* o, int64_t width) {
  vf m = vload(x + span.begin);
  for (int64_t c = span.begin + VL; c < span.end; c += VL) m = vmax(vload(x + c), m);
  const float best = vhmax(m);
  vf total = vload(sum);
  if (best > *max) {
    const vf alpha = exp2Neg(vset(*max - best));
    for (int64_t d = 0; d < width; d += VL) vstore(o + d, vload(o + d) * alpha);
    total *= alpha;
    *max = best;
  }
  m = vset(*max);
  for (int64_t c = span.begin; c < span.end; c += VL) {
    const vf e = exp2Neg(vload(x + c) - m);
    vstore(x + c, e);
    total += e;
  }
  vstore(sum, total);
}

// Floats of scratch for `rows` rows.
static int64_t forwardFloats(const Problem& p, int64_t rows) {
  const int64_t w = p.width();
  return rows * (2 * w + 1 + VL) + 2 * kKeys * w + MR * kKeys + 64;
}

template <class L>
static void forwardRows(const Problem& p, int64_t b, int64_t g, int64_t r0, int64_t r1, float* mem, float* out,
                        float* lse) {
  const int64_t w = p.width(), rows = r1 - r0;
  float* q = mem;
  float* o = q + rows * w;
  float* kt = o + rows * w;
  float* vr = kt + kKeys * w;
  float* x = vr + kKeys * w;
  float* max = x + MR * kKeys;
  float* sum = max + rows;
  for (int64_t r = 0; r < rows; r++) {
    packRow(p.q + p.at(b, g, r0 + r), p.D, w, p.scale * kLog2e, q + r * w);
    max[r] = kMasked;
  }
  memset(sum, 0, size_t(rows * VL) * sizeof(float));
  memset(o, 0, size_t(rows * w) * sizeof(float));

  const int64_t begin = p.first(b, r0), end = p.last(b, r1 - 1);
  for (int64_t j0 = begin / kKeys * kKeys; j0 < end; j0 += kKeys) {
    const int64_t count = p.S - j0 < kKeys ? p.S - j0 : kKeys;
    packColumns<L>(p, p.k, b, g, j0, count, kt);
    packRows<L>(p, p.v, b, g, j0, p.starts ? p.starts[b] - j0 : 0, count, vr);
    for (int64_t r = 0; r < rows; r += MR) {
      const int64_t n = rows - r < MR ? rows - r : MR;
      const Span span = visible(p, b, r0 + r, r0 + r + n, j0);
      bool same = true;
      if (span.begin >= span.end) continue;
      if (p.segments && apart(p, b, r0 + r, r0 + r + n, j0, count, &same)) continue;
      panel<false>(n, span.end - span.begin, p.D, q + r * w, w, kt + span.begin, kKeys, x + span.begin, kKeys, false);
      for (int64_t i = 0; i < n; i++) {
        float* s = x + i * kKeys;
        if (p.softcap > 0) softcapScores(s, span, p.softcap * kLog2e);
        mask(p, b, r0 + r + i, j0, span, !same, -INFINITY, s);
        softmaxRow(s, span, max + r + i, sum + (r + i) * VL, o + (r + i) * w, w);
      }
      const int64_t depth = (span.end < count ? span.end : count) - span.begin;
      panel<false>(n, w, depth, x + span.begin, kKeys, vr + span.begin * w, w, o + r * w, w, true);
    }
  }

  for (int64_t r = 0; r < rows; r++) {
    const float total = vhsum(vload(sum + r * VL)), inv = total == 0 ? 0 : 1.0f / total;
    float* to = out + p.at(b, g, r0 + r);
    for (int64_t d = 0; d < p.D; d++) to[d] = o[r * w + d] * inv;
    if (lse) lse[p.lseAt(b, g, r0 + r)] = total == 0 ? -INFINITY : max[r] * kLn2 + logf(total);
  }
}

template <class L>
static void forward(Pool& pool, const Problem& p, float* out, float* lse) {
  const int64_t groups = p.B * p.G, rows = p.rows();
  if (groups == 0 || rows == 0) return;
  // A chunk of rows fits into L2; more chunks only where the groups are fewer than the threads want.
  int64_t chunks = (rows * p.width() + 24575) / 24576;
  const int64_t wanted = (4 * pool.threads() + groups - 1) / groups;
  if (pool.threads() > 1 && chunks < wanted) chunks = wanted;
  int64_t size = ((rows + chunks - 1) / chunks + MR - 1) / MR * MR;
  if (size < 4 * MR) size = 4 * MR;
  chunks = (rows + size - 1) / size;
  pool.parallelFor(groups * chunks, 1, [&](int64_t begin, int64_t end, int worker) {
    float* mem = static_cast<float*>(pool.scratch(worker, forwardFloats(p, size) * int64_t(sizeof(float))));
    for (int64_t task = begin; task < end; task++) {
      const int64_t chunk = chunks - 1 - task / groups, r0 = chunk * size;  // the longest first
      const int64_t group = task % groups;
      forwardRows<L>(p, group / p.G, group % p.G, r0, r0 + size < rows ? r0 + size : rows, mem, out, lse);
    }
  });
}

// ---- gradient ----
// P = 2^(S - lse); dV = P' dO; dS = P (dO V' - delta), delta = dO . O; dQ = scale dS K; dK = dS' (scale Q).

// Weights and dS of one row of a tile: x holds scores and becomes P, y holds dO V' and becomes dS; zeros in the rest of
// what any row of the tile sees.
static SLUICE_INLINE void gradRow(const Problem& p, int64_t b, int64_t r, int64_t j0, Span span, Span all,
                                  bool bySegment, float lse, float delta, float* x, float* y) {
  const float cap = p.softcap * kLog2e;
  if (cap > 0) softcapScores(x, span, cap);
  mask(p, b, r, j0, span, bySegment, -INFINITY, x);
  // A row that sees nothing has lse = -inf; its scores are all masked.
  const vf shift = vset(lse == -INFINITY ? 0 : lse), dv = vset(delta);
  for (int64_t c = all.begin; c < span.begin; c += VL) {
    vstore(x + c, vf{});
    vstore(y + c, vf{});
  }
  for (int64_t c = span.begin; c < span.end; c += VL) {
    const vf s = vload(x + c), e = exp2Neg(s - shift);
    vf ds = e * (vload(y + c) - dv);
    if (cap > 0) {
      const vf u = s * (1.0f / cap);
      ds = vselect(e == vf{}, vf{}, ds * (1.0f - u * u));
    }
    vstore(x + c, e);
    vstore(y + c, ds);
  }
  for (int64_t c = span.end; c < all.end; c += VL) {
    vstore(x + c, vf{});
    vstore(y + c, vf{});
  }
}

static int64_t gradFloats(const Problem& p) {
  const int64_t w = p.width();
  return p.rows() * (3 * w + 2) + 5 * kKeys * w + 2 * kRows * kKeys;
}

struct Grads {
  const float *dout, *out, *lse;
  float *dq, *dk, *dv;
};

static void gradGroup(const Problem& p, const Grads& t, int64_t b, int64_t g, float* mem) {
  const int64_t w = p.width(), rows = p.rows();
  float* q = mem;
  float* dO = q + rows * w;
  float* dq = dO + rows * w;
  float* kt = dq + rows * w;
  float* vt = kt + kKeys * w;
  float* kr = vt + kKeys * w;
  float* dk = kr + kKeys * w;
  float* dv = dk + kKeys * w;
  float* x = dv + kKeys * w;
  float* y = x + kRows * kKeys;
  float* lse = y + kRows * kKeys;
  float* delta = lse + rows;
  for (int64_t r = 0; r < rows; r++) {
    const int64_t at = p.at(b, g, r);
    packRow(p.q + at, p.D, w, p.scale * kLog2e, q + r * w);
    packRow(t.dout + at, p.D, w, 1.0f, dO + r * w);
    lse[r] = t.lse[p.lseAt(b, g, r)] * kLog2e;
    delta[r] = lm::dot(t.dout + at, t.out + at, p.D);
  }
  memset(dq, 0, size_t(rows * w) * sizeof(float));

  for (int64_t j0 = 0; j0 < p.S; j0 += kKeys) {
    const int64_t count = p.S - j0 < kKeys ? p.S - j0 : kKeys;
    packColumns<LoadF32>(p, p.k, b, g, j0, count, kt);
    packColumns<LoadF32>(p, p.v, b, g, j0, count, vt);
    packRows<LoadF32>(p, p.k, b, g, j0, 0, count, kr);
    memset(dk, 0, size_t(2 * kKeys * w) * sizeof(float));
    for (int64_t r0 = 0; r0 < rows; r0 += kRows) {
      const int64_t tile = rows - r0 < kRows ? rows - r0 : kRows;
      const Span all = visible(p, b, r0, r0 + tile, j0);
      bool same = true;
      if (all.begin >= all.end) continue;
      if (p.segments && apart(p, b, r0, r0 + tile, j0, count, &same)) continue;
      for (int64_t r = 0; r < tile; r += MR) {
        const int64_t n = tile - r < MR ? tile - r : MR;
        float* s = x + r * kKeys;
        float* ds = y + r * kKeys;
        const Span span = visible(p, b, r0 + r, r0 + r + n, j0);
        if (span.begin >= span.end) {
          for (int64_t i = 0; i < n; i++) {
            memset(s + i * kKeys + all.begin, 0, size_t(all.end - all.begin) * sizeof(float));
            memset(ds + i * kKeys + all.begin, 0, size_t(all.end - all.begin) * sizeof(float));
          }
          continue;
        }
        const int64_t width = span.end - span.begin, c = span.begin;
        panel<false>(n, width, p.D, q + (r0 + r) * w, w, kt + c, kKeys, s + c, kKeys, false);
        panel<false>(n, width, p.D, dO + (r0 + r) * w, w, vt + c, kKeys, ds + c, kKeys, false);
        for (int64_t i = 0; i < n; i++) {
          const int64_t at = r0 + r + i;
          gradRow(p, b, at, j0, span, all, !same, lse[at], delta[at], s + i * kKeys, ds + i * kKeys);
        }
        const int64_t depth = (span.end < count ? span.end : count) - c;
        panel<false>(n, w, depth, ds + c, kKeys, kr + c * w, w, dq + (r0 + r) * w, w, true);
      }
      const int64_t seen = all.end < count ? all.end : count;
      for (int64_t j = all.begin; j < seen; j += MR) {
        const int64_t n = seen - j < MR ? seen - j : MR;
        int64_t from = p.rowsFrom(b, j0 + j) - r0, to = p.rowsTo(b, j0 + j + n) - r0;
        from = from < 0 ? 0 : from;
        to = to < tile ? to : tile;
        if (from >= to) continue;
        const int64_t at = r0 + from;
        panel<true>(n, w, to - from, x + from * kKeys + j, kKeys, dO + at * w, w, dv + j * w, w, true);
        panel<true>(n, w, to - from, y + from * kKeys + j, kKeys, q + at * w, w, dk + j * w, w, true);
      }
    }
    for (int64_t j = 0; j < count; j++) {
      const int64_t at = p.keyAt(b, g, j0 + j);
      packRow(dk + j * w, p.D, p.D, kLn2, t.dk + at);
      memcpy(t.dv + at, dv + j * w, size_t(p.D) * sizeof(float));
    }
  }
  for (int64_t r = 0; r < rows; r++) packRow(dq + r * w, p.D, p.D, p.scale, t.dq + p.at(b, g, r));
}

// ---- kernels ----

// args from `i` on: B, T, S, H, G, D, scale, causal, window, softcap
static Problem problemOf(const Args& args, int i) {
  Problem p = {};
  p.B = args.i64(i);
  p.T = args.i64(i + 1);
  p.S = p.keyRows = args.i64(i + 2);
  p.H = args.i64(i + 3);
  p.G = args.i64(i + 4);
  p.D = args.i64(i + 5);
  p.scale = args.f32(i + 6);
  p.causal = args.i64(i + 7);
  p.window = args.i64(i + 8);
  p.softcap = args.f32(i + 9);
  return p;
}

// Ids [B, T] that never fall along a row become ranges; others stay what they are. (No std::vector: its code, compiled here for one
// ISA, would be linked for all.)
struct Segments {
  Segments(Problem& p, const int32_t* ids) {
    if (!ids) return;
    const int64_t count = p.B * p.T;
    for (int64_t i = 1; i < count; i++)
      if (i % p.T != 0 && ids[i] < ids[i - 1]) {
        p.segments = ids;
        return;
      }
    runs = static_cast<int32_t*>(malloc(size_t(2 * count + 1) * sizeof(int32_t)));
    for (int64_t begin = 0, end = 0; begin < count; begin = end) {
      const int64_t row = begin / p.T * p.T;
      while (end < row + p.T && ids[end] == ids[begin]) end++;
      for (int64_t i = begin; i < end; i++) {
        runs[2 * i] = int32_t(begin - row);
        runs[2 * i + 1] = int32_t(end - row);
      }
    }
    p.runs = runs;
  }
  ~Segments() { free(runs); }
  Segments(const Segments&) = delete;
  Segments& operator=(const Segments&) = delete;
  int32_t* runs = nullptr;
};

// args: q, k, v, segments or 0, out, lse, then the problem
static void attention(Pool& pool, const Args& args) {
  Problem p = problemOf(args, 6);
  p.q = args.ptr<float>(0);
  p.k = args.ptr<float>(1);
  p.v = args.ptr<float>(2);
  const Segments segments(p, args.ptr<int32_t>(3));
  forward<LoadF32>(pool, p, args.ptr<float>(4), args.ptr<float>(5));
}

// args: dout, q, k, v, out, lse, segments or 0, dq, dk, dv, then the problem
static void attentionGrad(Pool& pool, const Args& args) {
  Problem p = problemOf(args, 10);
  p.q = args.ptr<float>(1);
  p.k = args.ptr<float>(2);
  p.v = args.ptr<float>(3);
  const Segments segments(p, args.ptr<int32_t>(6));
  const Grads t = {args.ptr<float>(0), args.ptr<float>(4), args.ptr<float>(5),
                   args.ptr<float>(7), args.ptr<float>(8), args.ptr<float>(9)};
  pool.parallelFor(p.B * p.G, 1, [&](int64_t begin, int64_t end, int worker) {
    float* mem = static_cast<float*>(pool.scratch(worker, gradFloats(p) * int64_t(sizeof(float))));
    for (int64_t i = begin; i < end; i++) gradGroup(p, t, i / p.G, i % p.G, mem);
  });
}

// The keys are the first S of a cache of P per batch, seen from starts[b] on.
// args: q, kCache, vCache, starts, out, dtype of the caches, P, then the problem
static void attentionCached(Pool& pool, const Args& args) {
  Problem p = problemOf(args, 7);
  p.q = args.ptr<float>(0);
  p.k = args.ptr<void>(1);
  p.v = args.ptr<void>(2);
  p.starts = args.ptr<int32_t>(3);
  p.keyRows = args.i64(6);
  float* out = args.ptr<float>(4);
  switch (args.i64(5)) {
    case F16: return forward<LoadF16>(pool, p, out, nullptr);
    case BF16: return forward<LoadBF16>(pool, p, out, nullptr);
    default: return forward<LoadF32>(pool, p, out, nullptr);
  }
}

}  // namespace attn

static void register_attention(Registry& r) {
  r.add("attention", attn::attention);
  r.add("attentionGrad", attn::attentionGrad);
  r.add("attentionCached", attn::attentionCached);
}
