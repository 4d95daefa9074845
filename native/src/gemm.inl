// Matrix product. B is packed first (shared by all threads, up to kPackFloats at a time), then the tiles of C are
// handed out; a task packs its block of A into its own L2, one slice of K after the other. The order of the sums
// depends on the shape alone, so any number of threads gives the same bits. Bound by arithmetic.

constexpr int64_t KC = 384;                      // slice of K: an NR-wide panel of B stays in L1
constexpr int64_t MC = 96 / MR * MR;             // rows of a tile: its block of A stays in L2
constexpr int64_t NC = 1024;                     // columns of a tile: its part of B stays in L3
constexpr int64_t kOuterK = 4 * KC;              // longer sums are done in several passes, if B is large
constexpr int64_t kOuterFloats = int64_t(1) << 19;
constexpr int64_t kPackFloats = int64_t(4) << 20;

/** Slices of K of equal length, a multiple of 8 and at most KC. */
static SLUICE_INLINE int64_t k_slice(int64_t k) {
  const int64_t slices = k > KC ? ceil_div(k, KC) : 1;
  return k > 0 ? round_up(ceil_div(k, slices), 8) : 8;
}

/** Packs columns [j0, j0 + n) of B for `count` batches: [batch][slice of K][panel][k][NR]. */
static void pack_b(Pool& pool, const Gemm& g, int64_t batch0, int64_t count, int64_t j0, int64_t n, float* packed) {
  const int64_t panels = ceil_div(n, NR), kc = k_slice(g.k), slices = ceil_div(g.k, kc);
  const int64_t group = 8, groups = ceil_div(panels, group);  // panels per task
  pool.parallelFor(count * slices * groups, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      const int64_t panel = t % groups * group, slice = t / groups % slices, batch = t / groups / slices;
      const int64_t k0 = slice * kc, kn = min_of(kc, g.k - k0), j = j0 + panel * NR;
      float* dst = packed + (batch * g.k + k0) * panels * NR + panel * kn * NR;
      const int64_t offset = (batch0 + batch) * g.bbatch + k0 * g.brs + j * g.bcs;
      pack_any<NR>(g.b, g.bdtype, offset, g.bcs, g.brs, min_of(group * NR, j0 + n - j), kn, dst);
    }
  });
}

/** Packs `rows` rows of A from row i0, the slice [k0, k0 + kn). */
static void pack_a(const Gemm& g, int64_t batch, int64_t i0, int64_t rows, int64_t k0, int64_t kn, float* dst) {
  const float* a = g.a + batch * g.abatch + i0 * g.ars + k0 * g.acs;
  pack_panels<MR, LoadF32>(a, g.ars, g.acs, rows, kn, dst);
}

/** One MR x NR tile whose columns end inside the panel: through a full tile beside C. */
static void micro_edge(GemmMicro micro, int64_t kn, const float* a, const float* b, float* c, int64_t ldc, int64_t rows,
                       int64_t cols, bool add) {
  float t[MR * NR];
  micro(kn, a, b, t, NR, false);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < cols; j++) c[i * ldc + j] = add ? c[i * ldc + j] + t[i * NR + j] : t[i * NR + j];
}

/** Rows [i0, i0 + rows) x columns [j0, j0 + cols) of C; `b` is the packed B, whose columns begin at jb. */
static void gemm_tile(const Gemm& g, int64_t batch, int64_t i0, int64_t rows, int64_t j0, int64_t cols, const float* b,
                      int64_t jb, int64_t bpanels, float* abuf) {
  const int64_t kc = k_slice(g.k);
  float* c0 = g.c + batch * g.cbatch;
  for (int64_t k0 = 0; k0 == 0 || k0 < g.k; k0 += kc) {
    const int64_t kn = min_of(kc, g.k - k0);
    const bool add = k0 > 0 || g.accumulate, last = k0 + kn >= g.k && g.hasEpilogue();
    pack_a(g, batch, i0, rows, k0, kn, abuf);
    for (int64_t j = j0; j < j0 + cols; j += NR) {
      const float* bp = b + k0 * bpanels * NR + (j - jb) * kn;
      const int64_t wide = min_of(NR, j0 + cols - j);
      for (int64_t i = 0; i < rows; i += MR) {
        const int64_t high = min_of(MR, rows - i);
        float* c = c0 + (i0 + i) * g.ldc + j;
        if (wide == NR) kGemmMicro[high](kn, abuf + i * kn, bp, c, g.ldc, add);
        else micro_edge(kGemmMicro[high], kn, abuf + i * kn, bp, c, g.ldc, high, wide, add);
        if (last) gemm_epilogue(g, batch, i0 + i, j, high, wide);
      }
    }
  }
}

/** One pass: K at most kOuterK. */
static void gemm_pass(Pool& pool, const Gemm& g) {
  const int threads = pool.threads();
  const bool sharedB = g.bbatch == 0;
  const int64_t kpad = g.k > 0 ? g.k : 1;
  const int64_t chunkN = min_of(round_up(g.n, NR), kPackFloats / kpad > 2 * NR ? kPackFloats / kpad / NR * NR : 2 * NR);
  const int64_t perBatch = kpad * chunkN;
  const int64_t chunkBatch =
      sharedB ? g.batch : min_of(g.batch, kPackFloats / perBatch > 1 ? kPackFloats / perBatch : 1);
  float* packed = static_cast<float*>(pool.shared((sharedB ? 1 : chunkBatch) * perBatch * 4));

  for (int64_t b0 = 0; b0 < g.batch; b0 += chunkBatch) {
    const int64_t bn = min_of(chunkBatch, g.batch - b0);
    for (int64_t j0 = 0; j0 < g.n; j0 += chunkN) {
      const int64_t jn = min_of(chunkN, g.n - j0), panels = ceil_div(jn, NR);
      pack_b(pool, g, b0, sharedB ? 1 : bn, j0, jn, packed);

      // Tiles of about MC x NC; smaller while there are too few to share.
      int64_t mparts = ceil_div(g.m, MC), nparts = ceil_div(jn, NC);
      while (threads > 1 && bn * mparts * nparts < 4 * threads && jn / nparts >= 8 * NR) nparts *= 2;
      while (threads > 1 && bn * mparts * nparts < 4 * threads && g.m / mparts >= 8 * MR) mparts *= 2;
      const int64_t tm = round_up(ceil_div(g.m, mparts), MR), tn = round_up(ceil_div(jn, nparts), NR);
      mparts = ceil_div(g.m, tm), nparts = ceil_div(jn, tn);
      const int64_t tiles = bn * nparts * mparts;
      // Below some 250k multiply-adds per tile several make up one task.
      const int64_t work = tm * tn * kpad, grain = work >= 250000 ? 1 : 250000 / work;
      pool.parallelFor(tiles, grain, [&](int64_t begin, int64_t end, int worker) {
        float* abuf = static_cast<float*>(pool.scratch(worker, MC * KC * 4));
        for (int64_t t = begin; t < end; t++) {
          const int64_t i = t % mparts * tm, j = j0 + t / mparts % nparts * tn, batch = t / mparts / nparts;
          const float* b = packed + (sharedB ? 0 : batch * kpad * panels * NR);
          gemm_tile(g, b0 + batch, i, min_of(tm, g.m - i), j, min_of(tn, j0 + jn - j), b, j0, panels, abuf);
        }
      });
    }
  }
}

/** A long K with a small C: fixed pieces of K side by side, then summed in order. */
static void gemm_split(Pool& pool, const Gemm& g) {
  const int64_t piece = round_up(ceil_div(g.k, min_of(16, g.k / 1024)), 8), whole = g.k / piece;
  const int64_t pieces = ceil_div(g.k, piece), size = g.m * g.n;
  float* partial = static_cast<float*>(pool.shared(pieces * size * 4, 1));
  Gemm part = g;
  part.c = partial, part.ldc = g.n, part.cbatch = size;
  part.k = piece, part.batch = whole, part.abatch = piece * g.acs, part.bbatch = piece * g.brs;
  part.bias = part.residual = nullptr, part.activation = ACT_NONE, part.accumulate = false;
  gemm_pass(pool, part);
  if (whole < pieces) {
    part.a += whole * part.abatch;
    const int64_t skip = whole * part.bbatch * (g.bdtype == F32 ? 4 : 2);
    part.b = static_cast<const char*>(g.b) + skip;
    part.c += whole * size, part.k = g.k - whole * piece, part.batch = 1;
    gemm_pass(pool, part);
  }
  for (int64_t i = 0; i < g.m; i++)
    for (int64_t j = 0; j < g.n; j++) {
      float sum = g.accumulate ? g.c[i * g.ldc + j] : 0;
      for (int64_t p = 0; p < pieces; p++) sum += partial[p * size + i * g.n + j];
      g.c[i * g.ldc + j] = sum;
    }
  if (g.hasEpilogue()) gemm_epilogue(g, 0, 0, 0, g.m, g.n);
}

/** Matrix times vector as the product of a row with the transposed matrix, which counts as small. */
static Gemm matrix_vector(Gemm g) {
  const float* vector = static_cast<const float*>(g.b);
  g.b = g.a, g.bcs = g.ars, g.brs = 1, g.n = g.m;
  g.a = vector, g.ars = g.k, g.acs = 1, g.m = 1, g.ldc = g.n;
  const int64_t abatch = g.abatch;
  g.abatch = g.bbatch, g.bbatch = abatch;
  return g;
}

static void gemm_run(Pool& pool, const Gemm& g) {
  if (g.m <= 0 || g.n <= 0 || g.batch <= 0) return;
  if (g.n == 1 && g.m > kSmallRows && g.ldc == 1 && g.bdtype == F32 && g.acs == 1 && g.brs == 1 && (g.batch == 1 || g.cbatch == g.m) && !g.hasEpilogue())
    return gemm_run(pool, matrix_vector(g));
  if (gemm_is_small(g)) return gemm_small(pool, g);
  if (g.batch == 1 && g.k >= 4096 && g.m * g.n <= 128 * 128) return gemm_split(pool, g);
  // B is packed in pieces that are still in the cache when they are used.
  const int64_t fits = kOuterFloats / g.n, outer = fits > kOuterK ? fits / KC * KC : kOuterK;
  for (int64_t k0 = 0; k0 == 0 || k0 < g.k; k0 += outer) {
    Gemm part = g;
    part.k = min_of(outer, g.k - k0);
    part.a += k0 * g.acs;
    part.b = static_cast<const char*>(g.b) + k0 * g.brs * (g.bdtype == F32 ? 4 : 2);
    part.accumulate = g.accumulate || k0 > 0;
    if (k0 + part.k < g.k) part.bias = part.residual = nullptr, part.activation = ACT_NONE;
    gemm_pass(pool, part);
  }
}

/**
 * matmul: a, b, c, m, n, k, a row/col stride, b row/col stride, ldc, batch, batch strides of a, b, c, dtype of b,
 * bias, activation, accumulate, residual, ldr. Addresses of 0 mean "none".
 */
static void kernel_matmul(Pool& pool, const Args& args) {
  Gemm g;
  g.a = args.ptr<float>(0), g.b = args.ptr<void>(1), g.c = args.ptr<float>(2);
  g.m = args.i64(3), g.n = args.i64(4), g.k = args.i64(5);
  g.ars = args.i64(6), g.acs = args.i64(7), g.brs = args.i64(8), g.bcs = args.i64(9), g.ldc = args.i64(10);
  g.batch = args.i64(11), g.abatch = args.i64(12), g.bbatch = args.i64(13), g.cbatch = args.i64(14);
  g.bdtype = static_cast<int>(args.i64(15)), g.bias = args.ptr<float>(16);
  g.activation = static_cast<int>(args.i64(17)), g.accumulate = args.i64(18) != 0;
  g.residual = args.ptr<float>(19), g.ldr = args.i64(20);
  gemm_run(pool, g);
}

static void register_gemm(Registry& r) { r.add("matmul", kernel_matmul); }
