// The description of a product, its epilogue, and products with few rows (decoding): C = A Bt with B stored [N, K].
// Few rows are bound by the memory that holds B, which is read once and as it lies: one to four rows of A are multiplied
// by dot products; more are packed side by side once, so that an element of B meets them as vectors, and the next rows of
// B are fetched meanwhile. Threads share the rows of B.

enum Activation : int { ACT_NONE = 0, ACT_RELU = 1, ACT_SILU = 2, ACT_GELU = 3, ACT_GELU_TANH = 4 };

/** C[b] = activation(A[b] B[b] + bias (+ C[b] if accumulate)) + residual[b]; strides count elements. */
struct Gemm {
  const float* a;
  int64_t ars, acs;  // A [m, k]: row and column stride, one of them 1
  const void* b;
  int64_t brs, bcs;  // B [k, n]
  int bdtype;        // f32, f16 or bf16
  float* c;
  int64_t ldc;
  int64_t m, n, k;
  int64_t batch, abatch, bbatch, cbatch;
  const float* bias;  // [n] or null
  int activation;
  bool accumulate;
  const float* residual;  // [m, n] with row stride ldr, batches as C; or null
  int64_t ldr;

  SLUICE_INLINE bool hasEpilogue() const { return bias || residual || activation != ACT_NONE; }
};

static SLUICE_INLINE vf activate(vf x, int activation) {
  switch (activation) {
    case ACT_RELU: return vmax(vf{}, x);
    case ACT_SILU: return vsilu(x);
    case ACT_GELU: return vgelu(x);
    case ACT_GELU_TANH: return vgelu_tanh(x);
    default: return x;
  }
}

/** Bias, activation and residual on the block of C at (batch, i, j). */
static __attribute__((noinline)) void gemm_epilogue(const Gemm& g, int64_t batch, int64_t i, int64_t j, int64_t rows,
                                                    int64_t cols) {
  for (int64_t r = 0; r < rows; r++) {
    float* c = g.c + batch * g.cbatch + (i + r) * g.ldc + j;
    const float* residual = g.residual ? g.residual + batch * g.cbatch + (i + r) * g.ldr + j : nullptr;
    for (int64_t q = 0; q < cols; q += VL) {
      const int64_t left = cols - q;
      vf x = left >= VL ? vload(c + q) : vloadn(c + q, left);
      if (g.bias) x = x + (left >= VL ? vload(g.bias + j + q) : vloadn(g.bias + j + q, left));
      x = activate(x, g.activation);
      if (residual) x = x + (left >= VL ? vload(residual + q) : vloadn(residual + q, left));
      if (left >= VL) vstore(c + q, x);
      else vstoren(c + q, x, left);
    }
  }
}

constexpr int64_t kSmallRows = 32;
constexpr int64_t kSmallFloats = 96 * 1024;  // more rows count as few while A fits into L2
constexpr int RW = 4;  // rows of B at a time

/** The first n elements, the rest zero. */
template <class L>
static SLUICE_INLINE vf load_first(const typename L::T* p, int64_t n) {
  float t[VL] = {};
  for (int64_t i = 0; i < n; i++) t[i] = L::one(p + i);
  return vload(t);
}

/** Dot products of W rows of B with X rows of A: out[x * ldo + w] (+)= a_x . b_w. */
template <class L, int W, int X>
static SLUICE_INLINE void small_dots(int64_t k, const typename L::T* b, int64_t ldb, const float* a, int64_t lda,
                                     float* out, int64_t ldo, bool add) {
  constexpr int U = X == 1 ? 2 : 1;  // enough independent sums to hide the latency
  vf acc[U][X][W];
  for (int u = 0; u < U; u++)
    for (int x = 0; x < X; x++)
      for (int w = 0; w < W; w++) acc[u][x][w] = vf{};
  int64_t p = 0;
  for (; p + U * VL <= k; p += U * VL) {
#pragma GCC unroll 2
    for (int u = 0; u < U; u++) {
      vf bv[W];
#pragma GCC unroll 4
      for (int w = 0; w < W; w++) bv[w] = L::vec(b + w * ldb + p + u * VL);
#pragma GCC unroll 4
      for (int x = 0; x < X; x++) {
        vf av = vload(a + x * lda + p + u * VL);
#pragma GCC unroll 4
        for (int w = 0; w < W; w++) acc[u][x][w] = vfma(av, bv[w], acc[u][x][w]);
      }
    }
  }
  for (; p < k; p += VL) {
    const int64_t left = k - p < VL ? k - p : VL;
    vf bv[W];
    for (int w = 0; w < W; w++) bv[w] = load_first<L>(b + w * ldb + p, left);
    for (int x = 0; x < X; x++) {
      vf av = vloadn(a + x * lda + p, left);
      for (int w = 0; w < W; w++) acc[0][x][w] = vfma(av, bv[w], acc[0][x][w]);
    }
  }
#pragma GCC unroll 3
  for (int x = 0; x < X; x++) {
    float sum[4];
    if constexpr (U == 2)
      for (int w = 0; w < W; w++) acc[0][x][w] = acc[0][x][w] + acc[U - 1][x][w];
    if constexpr (W == 4) vhsum4(acc[0][x][0], acc[0][x][1], acc[0][x][2], acc[0][x][3], sum);
    else sum[0] = vhsum(acc[0][x][0]);
    float* o = out + x * ldo;
#pragma GCC unroll 4
    for (int w = 0; w < W; w++) o[w] = add ? o[w] + sum[w] : sum[w];
  }
}

/** W rows of B against all rows of A, three (two) at a time. */
template <class L, int W>
static void dot_rows(const Gemm& g, const typename L::T* b, int64_t ldb, const float* a, float* c) {
  for (int64_t i = 0; i < g.m;) {
    const int64_t left = g.m - i;
    const float* ai = a + i * g.ars;
    float* ci = c + i * g.ldc;
    if (left == 1) {
      small_dots<L, W, 1>(g.k, b, ldb, ai, g.ars, ci, g.ldc, g.accumulate);
      i += 1;
    } else if (left == 2 || left == 4) {
      small_dots<L, W, 2>(g.k, b, ldb, ai, g.ars, ci, g.ldc, g.accumulate);
      i += 2;
    } else {
      small_dots<L, W, 3>(g.k, b, ldb, ai, g.ars, ci, g.ldc, g.accumulate);
      i += 3;
    }
  }
}

/** Columns [j, end) of C for one batch, by dot products. */
template <class L>
static void dot_columns(const Gemm& g, int64_t batch, int64_t j, int64_t end) {
  const auto* b = static_cast<const typename L::T*>(g.b) + batch * g.bbatch;
  const float* a = g.a + batch * g.abatch;
  float* c = g.c + batch * g.cbatch;
  for (int64_t n = j; n < end; n += RW) {
    const typename L::T* bn = b + n * g.bcs;
    if (end - n >= RW) dot_rows<L, RW>(g, bn, g.bcs, a, c + n);
    else
      for (int64_t w = 0; w < end - n; w++) dot_rows<L, 1>(g, bn + w * g.bcs, g.bcs, a, c + n + w);
  }
}

// ---- five and more rows of A ----

constexpr int FR = 6;  // rows of B at a time

/** Memory to fetch meanwhile: `step` bytes more with every second k. */
struct Ahead {
  const char* at;
  int64_t step;
};

/** t[r][V * VL] = FR rows of B times a panel of A, packed [k][V * VL]. */
template <int V>
static SLUICE_INLINE void panel_tile(int64_t k, const float* b, int64_t ldb, const float* a, float* t, Ahead& ahead) {
  constexpr int U = V == 1 ? 2 : 1;  // enough independent sums to hide the latency
  vf acc[U][FR][V];
  for (int u = 0; u < U; u++)
    for (int r = 0; r < FR; r++)
      for (int v = 0; v < V; v++) acc[u][r][v] = vf{};
  const float* b3 = b + 3 * ldb;
  const auto step = [&](int u, int64_t p) __attribute__((always_inline)) {
    vf x[V];
    for (int v = 0; v < V; v++) x[v] = vload(a + (p * V + v) * VL);
#pragma GCC unroll 3
    for (int r = 0; r < 3; r++) {
      const vf low = vset(b[r * ldb + p]), high = vset(b3[r * ldb + p]);
      for (int v = 0; v < V; v++) acc[u][r][v] = vfma(low, x[v], acc[u][r][v]);
      for (int v = 0; v < V; v++) acc[u][r + 3][v] = vfma(high, x[v], acc[u][r + 3][v]);
    }
  };
  int64_t p = 0;
#pragma GCC unroll 2
  for (; p + 2 <= k; p += 2) {
    __builtin_prefetch(ahead.at);
    ahead.at += ahead.step;
    step(0, p);
    step(U - 1, p + 1);
  }
  if (p < k) step(0, p);
  for (int r = 0; r < FR; r++)
    for (int v = 0; v < V; v++)
      vstore(t + (r * V + v) * VL, U == 2 ? acc[0][r][v] + acc[U - 1][r][v] : acc[0][r][v]);
}

/** Columns [j, end) of C for one batch; `packed` has the panels of A, each [k][V * VL]. */
template <class L, int V>
static void panel_columns(Pool& pool, const Gemm& g, int64_t batch, int64_t j, int64_t end, const float* packed,
                          int worker) {
  constexpr int64_t PW = V * VL;
  const auto* b = static_cast<const typename L::T*>(g.b) + batch * g.bbatch;
  float* c = g.c + batch * g.cbatch;
  const int64_t panels = ceil_div(g.m, PW), row = sizeof(typename L::T);
  float* own = static_cast<float*>(pool.scratch(worker, FR * g.k * 4));
  for (int64_t n = j; n < end; n += FR) {
    const int64_t rows = end - n < FR ? end - n : FR;
    const typename L::T* bn = b + n * g.bcs;
    Ahead ahead{reinterpret_cast<const char*>(bn + rows * g.bcs), ceil_div(2 * FR * row, panels)};
    const float* wide;
    int64_t ldb = g.k;
    if (sizeof(typename L::T) == 4 && rows == FR) {
      wide = reinterpret_cast<const float*>(bn), ldb = g.bcs;
    } else {  // widened once for all panels; at the edge the last row stands for those beyond
      for (int64_t r = 0; r < FR; r++) {
        const typename L::T* from = bn + (r < rows ? r : rows - 1) * g.bcs;
        float* to = own + r * g.k;
        int64_t p = 0;
        for (; p + VL <= g.k; p += VL) vstore(to + p, L::vec(from + p));
        for (; p < g.k; p++) to[p] = L::one(from + p);
      }
      wide = own;
    }
    for (int64_t q = 0; q < panels; q++) {
      float t[FR * PW];
      panel_tile<V>(g.k, wide, ldb, packed + q * g.k * PW, t, ahead);
      const int64_t high = min_of(PW, g.m - q * PW);
      for (int64_t i = 0; i < high; i++) {
        float* out = c + (q * PW + i) * g.ldc + n;
        for (int64_t r = 0; r < rows; r++) out[r] = g.accumulate ? out[r] + t[r * PW + i] : t[r * PW + i];
      }
    }
  }
}

constexpr int64_t kDotRows = 4;

static bool gemm_is_small(const Gemm& g) {
  const bool few = g.m <= kSmallRows || (g.m <= 2 * kSmallRows && g.m * g.k <= kSmallFloats);
  return few && g.brs == 1 && g.acs == 1 && g.k >= VL;
}

template <class L>
static void gemm_small_of(Pool& pool, const Gemm& g) {
  const bool dots = g.m <= kDotRows, narrow = g.m <= VL;
  const int64_t each = dots ? RW : FR, blocks = ceil_div(g.n, each);
  // A task is worth waking a thread for from some 64k multiply-adds, or 128 KiB of B, on.
  const int64_t cost = each * g.k * (g.m < 2 ? 2 : g.m);
  int64_t grain = 65536 / cost > 0 ? 65536 / cost : 1;
  const int64_t coarse = blocks / (8 * pool.threads());  // long pieces of B suit the hardware's prefetching
  if (grain < coarse) grain = coarse;
  const int64_t width = narrow ? VL : 2 * VL;
  float* packed = dots ? nullptr : static_cast<float*>(pool.shared(round_up(g.m, width) * g.k * 4, 3));
  for (int64_t batch = 0; batch < g.batch; batch++) {
    const float* a = g.a + batch * g.abatch;
    if (!dots && (batch == 0 || g.abatch != 0)) {
      if (narrow) pack_panels<VL, LoadF32>(a, g.ars, 1, g.m, g.k, packed);
      else pack_panels<2 * VL, LoadF32>(a, g.ars, 1, g.m, g.k, packed);
    }
    pool.parallelFor(blocks, grain, [&](int64_t begin, int64_t end, int worker) {
      const int64_t j = begin * each, stop = min_of(end * each, g.n);
      if (dots) dot_columns<L>(g, batch, j, stop);
      else if (narrow) panel_columns<L, 1>(pool, g, batch, j, stop, packed, worker);
      else panel_columns<L, 2>(pool, g, batch, j, stop, packed, worker);
      if (g.hasEpilogue()) gemm_epilogue(g, batch, 0, j, g.m, stop - j);
    });
  }
}

static void gemm_small(Pool& pool, const Gemm& g) {
  if (g.bdtype == F32) gemm_small_of<LoadF32>(pool, g);
  else if (g.bdtype == F16) gemm_small_of<LoadF16>(pool, g);
  else gemm_small_of<LoadBF16>(pool, g);
}
