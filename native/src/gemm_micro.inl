// The inside of the matrix product: packing and the register-blocked kernel.
// A is packed in panels of MR rows, B in panels of NR columns, both k-major: a panel holds for every k its MR (NR)
// neighbours side by side, zero-filled at the edge. One kernel call multiplies two panels into an MR x NR tile held in
// registers (12 vectors of 16 with AVX2, 28 of 32 with AVX-512). Bound by arithmetic.

constexpr int MR = VL == 16 ? 14 : 6;
constexpr int NR = 2 * VL;

static SLUICE_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static SLUICE_INLINE int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
static SLUICE_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

template <int R>
static void gemm_micro(int64_t kc, const float* a, const float* b, float* c, int64_t ldc, bool add) {
  vf acc[R][2];
  for (int i = 0; i < R; i++) {
    acc[i][0] = acc[i][1] = vf{};
    __builtin_prefetch(c + i * ldc, 1);
    __builtin_prefetch(c + i * ldc + NR - 1, 1);
  }
#pragma GCC unroll 4
  for (int64_t k = 0; k < kc; k++) {
    vf b0 = vload(b), b1 = vload(b + VL);
#pragma GCC unroll 14
    for (int i = 0; i < R; i++) {
      vf ai = vset(a[i]);
      acc[i][0] = vfma(ai, b0, acc[i][0]);
      acc[i][1] = vfma(ai, b1, acc[i][1]);
    }
    a += MR;
    b += NR;
  }
#pragma GCC unroll 14
  for (int i = 0; i < R; i++) {
    float* row = c + i * ldc;
    vstore(row, add ? vload(row) + acc[i][0] : acc[i][0]);
    vstore(row + VL, add ? vload(row + VL) + acc[i][1] : acc[i][1]);
  }
}

using GemmMicro = void (*)(int64_t, const float*, const float*, float*, int64_t, bool);
static const GemmMicro kGemmMicro[MR + 1] = {
    nullptr,        gemm_micro<1>,  gemm_micro<2>,  gemm_micro<3>,  gemm_micro<4>,  gemm_micro<5>,  gemm_micro<6>,
#if VL == 16
    gemm_micro<7>,  gemm_micro<8>,  gemm_micro<9>,  gemm_micro<10>, gemm_micro<11>, gemm_micro<12>, gemm_micro<13>,
    gemm_micro<14>,
#endif
};

// ---- loads of any storage type ----

struct LoadF32 {
  using T = float;
  static SLUICE_INLINE vf vec(const T* p) { return vload(p); }
  static SLUICE_INLINE float one(const T* p) { return *p; }
};
struct LoadF16 {
  using T = uint16_t;
  static SLUICE_INLINE vf vec(const T* p) { return vload_f16(p); }
  static SLUICE_INLINE float one(const T* p) { return f16_to_f32(*p); }
};
struct LoadBF16 {
  using T = uint16_t;
  static SLUICE_INLINE vf vec(const T* p) { return vload_bf16(p); }
  static SLUICE_INLINE float one(const T* p) { return bf16_to_f32(*p); }
};

/** In-register transposition of TW x TW floats: row i of the result is column i of m. */
#if VL >= 8
constexpr int TW = 8;
typedef float vt __attribute__((vector_size(32)));
static SLUICE_INLINE void transpose_block(vt* m) {
  __m256 t[8], u[8];
  for (int i = 0; i < 4; i++) {
    t[2 * i] = _mm256_unpacklo_ps((__m256)m[2 * i], (__m256)m[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps((__m256)m[2 * i], (__m256)m[2 * i + 1]);
  }
  for (int h = 0; h < 8; h += 4) {
    u[h] = _mm256_shuffle_ps(t[h], t[h + 2], 0x44);
    u[h + 1] = _mm256_shuffle_ps(t[h], t[h + 2], 0xee);
    u[h + 2] = _mm256_shuffle_ps(t[h + 1], t[h + 3], 0x44);
    u[h + 3] = _mm256_shuffle_ps(t[h + 1], t[h + 3], 0xee);
  }
  for (int i = 0; i < 4; i++) {
    m[i] = (vt)_mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    m[i + 4] = (vt)_mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}
#else
constexpr int TW = 4;
typedef vf vt;
static SLUICE_INLINE void transpose_block(vt* m) {
#if defined(__SSE2__)
  __m128 a = (__m128)m[0], b = (__m128)m[1], c = (__m128)m[2], d = (__m128)m[3];
  _MM_TRANSPOSE4_PS(a, b, c, d);
  m[0] = (vt)a, m[1] = (vt)b, m[2] = (vt)c, m[3] = (vt)d;
#else
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < i; j++) {
      float x = m[i][j];
      m[i][j] = m[j][i];
      m[j][i] = x;
    }
#endif
}
#endif

template <class L>
static SLUICE_INLINE vt load_block_row(const typename L::T* p) {
#if VL == 16
  if constexpr (sizeof(typename L::T) == 4) {
    vt x;
    memcpy(&x, p, sizeof x);
    return x;
  } else {
    float t[8];
    for (int i = 0; i < 8; i++) t[i] = L::one(p + i);
    vt x;
    memcpy(&x, t, sizeof x);
    return x;
  }
#else
  return L::vec(p);
#endif
}

/**
 * Packs one panel of width W: dst[k * W + j] = src[j * ps + k * ks] for j < width, 0 for the rest of W.
 * Fast when ks is 1.
 */
template <int W, class L>
static void pack_panel(const typename L::T* src, int64_t ps, int64_t ks, int64_t width, int64_t kc, float* dst) {
  int64_t k = 0;
  if (ks == 1 && ps != 1) {
    for (; k + TW <= kc; k += TW) {
      for (int j0 = 0; j0 < W; j0 += TW) {
        vt m[TW];
        const int wide = W - j0 < TW ? W - j0 : TW;
        for (int j = 0; j < TW; j++) m[j] = j0 + j < width ? load_block_row<L>(src + (j0 + j) * ps + k) : vt{};
        transpose_block(m);
        for (int i = 0; i < TW; i++) memcpy(dst + (k + i) * W + j0, &m[i], static_cast<size_t>(wide) * 4);
      }
    }
  }
  for (; k < kc; k++) {
    float* d = dst + k * W;
    for (int64_t j = 0; j < width; j++) d[j] = L::one(src + j * ps + k * ks);
    for (int64_t j = width; j < W; j++) d[j] = 0;
  }
}

/**
 * Packs neighbouring full panels of a source that is contiguous across them: k outside, so that memory is read in long
 * pieces. Panels are `step` floats apart in dst.
 */
template <int W, class L>
static void pack_wide(const typename L::T* src, int64_t ks, int64_t panels, int64_t kc, float* dst, int64_t step) {
  for (int64_t k = 0; k < kc; k++) {
    const typename L::T* s = src + k * ks;
    float* d = dst + k * W;
    for (int64_t p = 0; p < panels; p++, s += W, d += step) {
      __builtin_prefetch(s + 6 * ks);  // long strides escape the hardware's prefetching
      if constexpr (sizeof(*s) == 4) {
        memcpy(d, s, W * 4);
      } else {
        int j = 0;
        for (; j + VL <= W; j += VL) vstore(d + j, L::vec(s + j));
        for (; j < W; j++) d[j] = L::one(s + j);
      }
    }
  }
}

/** Packs `width` neighbours into panels of W, each kc * W floats. */
template <int W, class L>
static void pack_panels(const typename L::T* src, int64_t ps, int64_t ks, int64_t width, int64_t kc, float* dst) {
  int64_t done = 0;
  if (ps == 1) {
    pack_wide<W, L>(src, ks, width / W, kc, dst, kc * W);
    done = width / W * W;
  }
  for (; done < width; done += W)
    pack_panel<W, L>(src + done * ps, ps, ks, width - done < W ? width - done : W, kc, dst + done * kc);
}

/** pack_panels for a storage type known at run time; `offset` counts elements. */
template <int W>
static void pack_any(const void* src, int dtype, int64_t offset, int64_t ps, int64_t ks, int64_t width, int64_t kc,
                     float* dst) {
  if (dtype == F32) pack_panels<W, LoadF32>(static_cast<const float*>(src) + offset, ps, ks, width, kc, dst);
  else if (dtype == F16) pack_panels<W, LoadF16>(static_cast<const uint16_t*>(src) + offset, ps, ks, width, kc, dst);
  else pack_panels<W, LoadBF16>(static_cast<const uint16_t*>(src) + offset, ps, ks, width, kc, dst);
}
