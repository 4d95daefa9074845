/**
 * One vector type per ISA: `vf` holds VL floats, `vi` VL int32, a comparison gives a `vi` mask of 0 / -1.
 * Arithmetic is the compilers' vector extension (+ - * / < & ...); a scalar operand broadcasts. Included inside the
 * namespace of the ISA. Functions are accurate to about 2 ulp and keep NaN and infinities.
 */
#define VL SLUICE_VL
typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef float vf_u __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef int32_t vi_u __attribute__((vector_size(VL * 4), aligned(4), may_alias));

static SLUICE_INLINE vf vset(float x) { return x - vf{}; }
static SLUICE_INLINE vi vseti(int32_t x) { return x - vi{}; }

/** 0, 1, 2 ... */
static SLUICE_INLINE vi vlanes() {
  vi x;
  for (int i = 0; i < VL; i++) x[i] = i;
  return x;
}

// Unaligned: as fast as aligned on everything that has these vectors.
static SLUICE_INLINE vf vload(const float* p) { return *reinterpret_cast<const vf_u*>(p); }
static SLUICE_INLINE void vstore(float* p, vf x) { *reinterpret_cast<vf_u*>(p) = x; }
static SLUICE_INLINE vi viload(const int32_t* p) { return *reinterpret_cast<const vi_u*>(p); }
static SLUICE_INLINE void vistore(int32_t* p, vi x) { *reinterpret_cast<vi_u*>(p) = x; }

/** The first n < VL floats, the rest `fill`; touches only those n. */
static SLUICE_INLINE vf vloadn(const float* p, int64_t n, float fill = 0) {
  float t[VL];
  for (int i = 0; i < VL; i++) t[i] = fill;
  for (int64_t i = 0; i < n; i++) t[i] = p[i];
  return vload(t);
}
static SLUICE_INLINE void vstoren(float* p, vf x, int64_t n) {
  float t[VL];
  vstore(t, x);
  for (int64_t i = 0; i < n; i++) p[i] = t[i];
}

static SLUICE_INLINE vi vbits(vf x) { return (vi)x; }
static SLUICE_INLINE vf vfrombits(vi x) { return (vf)x; }
static SLUICE_INLINE vf vtofloat(vi x) { return __builtin_convertvector(x, vf); }
/** Truncates; undefined beyond the range of int32. */
static SLUICE_INLINE vi vtoint(vf x) { return __builtin_convertvector(x, vi); }

/** a * b + c, fused where the ISA can. */
static SLUICE_INLINE vf vfma(vf a, vf b, vf c) { return a * b + c; }
static SLUICE_INLINE vf vselect(vi mask, vf a, vf b) { return vfrombits((mask & vbits(a)) | (~mask & vbits(b))); }
static SLUICE_INLINE vi viselect(vi mask, vi a, vi b) { return (mask & a) | (~mask & b); }

/** a > b ? a : b; a NaN in either gives b. */
static SLUICE_INLINE vf vmax(vf a, vf b) {
#if VL == 16
  return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif VL == 8
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
  return vselect(a > b, a, b);
#endif
}
/** a < b ? a : b; a NaN in either gives b. */
static SLUICE_INLINE vf vmin(vf a, vf b) {
#if VL == 16
  return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif VL == 8
  return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (vf)_mm_min_ps((__m128)a, (__m128)b);
#else
  return vselect(a < b, a, b);
#endif
}

static SLUICE_INLINE vf vabs(vf x) { return vfrombits(vbits(x) & 0x7fffffff); }
static SLUICE_INLINE vf vsqrt(vf x) {
#if VL == 16
  return (vf)_mm512_sqrt_ps((__m512)x);
#elif VL == 8
  return (vf)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < VL; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

/** Lane i is lane lanes[i] of x, of which the low bits count. */
static SLUICE_INLINE vf vpermute(vf x, vi lanes) {
#if VL == 16
  return (vf)_mm512_permutexvar_ps((__m512i)lanes, (__m512)x);
#elif VL == 8
  return (vf)_mm256_permutevar8x32_ps((__m256)x, (__m256i)lanes);
#else
  vf y;
  for (int i = 0; i < VL; i++) y[i] = x[lanes[i] & (VL - 1)];
  return y;
#endif
}

/** Bit i is set where lane i of the mask is. */
static SLUICE_INLINE uint32_t vmovemask(vi mask) {
#if VL == 16
  return _mm512_movepi32_mask((__m512i)mask);
#elif VL == 8
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)mask));
#elif defined(__aarch64__)
  const vi weights = {1, 2, 4, 8};
  return static_cast<uint32_t>(vaddvq_s32((int32x4_t)(mask & weights)));
#else
  uint32_t bits = 0;
  for (int i = 0; i < VL; i++) bits |= static_cast<uint32_t>(mask[i] & 1) << i;
  return bits;
#endif
}
static SLUICE_INLINE bool vany(vi mask) { return vmovemask(mask) != 0; }

#if VL == 8
/** For each of the 256 masks its lanes, packed to the front. */
struct CompressTable {
  uint8_t lanes[256][8];
  constexpr CompressTable() : lanes() {
    for (int bits = 0; bits < 256; bits++)
      for (int lane = 0, at = 0; lane < 8; lane++)
        if (bits >> lane & 1) lanes[bits][at++] = static_cast<uint8_t>(lane);
  }
};
static constexpr CompressTable kCompress;
#endif
/** Stores the lanes of x and y named by the bits, packed; writes VL elements to each. */
static SLUICE_INLINE void vcompress(float* px, int32_t* py, vf x, vi y, uint32_t bits) {
#if VL == 16
  vstore(px, (vf)_mm512_maskz_compress_ps(static_cast<__mmask16>(bits), (__m512)x));
  vistore(py, (vi)_mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), (__m512i)y));
#elif VL == 8
  const __m256i order = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)kCompress.lanes[bits]));
  vstore(px, (vf)_mm256_permutevar8x32_ps((__m256)x, order));
  vistore(py, (vi)_mm256_permutevar8x32_epi32((__m256i)y, order));
#else
  int at = 0;
  for (int i = 0; i < VL; i++) {
    px[at] = x[i];
    py[at] = y[i];
    at += bits >> i & 1;
  }
#endif
}

/** Sum of the lanes, in a fixed tree. */
static SLUICE_INLINE float vhsum(vf x) {
  float t[VL];
  vstore(t, x);
  for (int w = VL / 2; w > 0; w /= 2)
    for (int i = 0; i < w; i++) t[i] += t[i + w];
  return t[0];
}
/** The four sums of the lanes of a, b, c, d. */
static SLUICE_INLINE void vhsum4(vf a, vf b, vf c, vf d, float* out) {
#if defined(__SSE2__)
#if VL == 16
  auto half = [](vf x) { return _mm256_add_ps(_mm512_castps512_ps256((__m512)x), _mm512_extractf32x8_ps((__m512)x, 1)); };
  __m256 wa = half(a), wb = half(b), wc = half(c), wd = half(d);
#elif VL == 8
  __m256 wa = (__m256)a, wb = (__m256)b, wc = (__m256)c, wd = (__m256)d;
#endif
#if VL >= 8
  __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(wa, wb), _mm256_unpackhi_ps(wa, wb));
  __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(wc, wd), _mm256_unpackhi_ps(wc, wd));
  __m256 s = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
#else
  __m128 xa = (__m128)a, xb = (__m128)b, xc = (__m128)c, xd = (__m128)d;
  __m128 ab = _mm_add_ps(_mm_unpacklo_ps(xa, xb), _mm_unpackhi_ps(xa, xb));
  __m128 cd = _mm_add_ps(_mm_unpacklo_ps(xc, xd), _mm_unpackhi_ps(xc, xd));
  _mm_storeu_ps(out, _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x44), _mm_shuffle_ps(ab, cd, 0xee)));
#endif
#else
  out[0] = vhsum(a), out[1] = vhsum(b), out[2] = vhsum(c), out[3] = vhsum(d);
#endif
}
/** Largest lane; NaN lanes may be lost. */
static SLUICE_INLINE float vhmax(vf x) {
  float t[VL];
  vstore(t, x);
  for (int w = VL / 2; w > 0; w /= 2)
    for (int i = 0; i < w; i++) t[i] = t[i] > t[i + w] ? t[i] : t[i + w];
  return t[0];
}

/** 2^n for -126 <= n <= 127. */
static SLUICE_INLINE vf vpow2i(vi n) { return vfrombits((n + 127) << 23); }

/** x = n ln2 + r with |r| <= ln2 / 2: gives n as a float (integer valued) and r. */
static SLUICE_INLINE vf vreduce_ln2(vf x, vf* r) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  vf n = vfma(x, vset(1.44269504f), vset(magic)) - magic;
  vf t = vfma(n, vset(-0.693359375f), x);
  *r = vfma(n, vset(2.12194440e-4f), t);
  return n;
}

/** (e^r - 1 - r) / r^2 for |r| <= ln2 / 2. */
static SLUICE_INLINE vf vexp_tail(vf r) {
  vf p = vset(1.98412698e-4f);
  p = vfma(p, r, vset(1.38888889e-3f));
  p = vfma(p, r, vset(8.33333333e-3f));
  p = vfma(p, r, vset(4.16666667e-2f));
  p = vfma(p, r, vset(1.66666667e-1f));
  return vfma(p, r, vset(0.5f));
}

/** e^x, with gradual underflow; overflows to inf. */
static SLUICE_INLINE vf vexp(vf x) {
  vf c = vmin(vmax(x, vset(-104.0f)), vset(89.0f));
  vf r;
  vi n = vtoint(vreduce_ln2(c, &r));
  vf y = vfma(r * r, vexp_tail(r), r) + 1.0f;
  vi h = n >> 1;
  y = y * vpow2i(h) * vpow2i(n - h);
  return vselect(x != x, x, y);
}

/** e^x - 1 without cancellation near 0; for |x| <= 80. */
static SLUICE_INLINE vf vexpm1(vf x) {
  vf r;
  vi n = vtoint(vreduce_ln2(x, &r));
  vf p = vfma(r * r, vexp_tail(r), r);
  vf s = vpow2i(n);
  return vfma(p, s, s - 1.0f);
}

/** Natural logarithm; log(0) = -inf, log(negative) = NaN. */
static SLUICE_INLINE vf vlog(vf x) {
  vi tiny = x < 1.17549435e-38f;
  vf y = vselect(tiny, x * 8388608.0f, x);
  vi bits = vbits(y);
  // Moves the mantissa into [sqrt(1/2), sqrt(2)).
  vi e = (bits - 0x3f3504f3) >> 23;
  vf m = vfrombits(bits - (e << 23));
  e = e - (tiny & 23);
  vf f = m - 1.0f;
  vf s = f / (f + 2.0f);
  vf z = s * s;
  vf q = vfma(z, vset(2.0f / 9), vset(2.0f / 7));
  q = vfma(q, z, vset(2.0f / 5));
  q = vfma(q, z, vset(2.0f / 3)) * z;
  vf h = 0.5f * f * f;
  vf n = vtofloat(e);
  // ln(1 + f) = f - (h - s (h + q)), and n ln2 in two parts.
  vf r = vfma(n, vset(-2.12194440e-4f), s * (h + q)) - h;
  r = vfma(n, vset(0.693359375f), f + r);
  vf inf = vset(__builtin_inff());
  r = vselect(x == inf, inf, r);
  r = vselect(x == vf{}, -inf, r);
  return vselect((x < vf{}) | (x != x), vset(__builtin_nanf("")), r);
}

static SLUICE_INLINE vf vtanh(vf x) {
  vf e = vexpm1(2.0f * vmin(vabs(x), vset(10.0f)));
  vf y = e / (e + 2.0f);
  y = vfrombits(vbits(y) | (vbits(x) & (int32_t)0x80000000));
  return vselect(x != x, x, y);
}

static SLUICE_INLINE vf vsigmoid(vf x) { return 1.0f / (1.0f + vexp(-x)); }
static SLUICE_INLINE vf vsilu(vf x) { return x / (1.0f + vexp(-x)); }

/** Error function: odd polynomial up to 1, then 1 - e^(-x^2) q(1 / (1 + x/2)); both fitted at Chebyshev nodes. */
static SLUICE_INLINE vf verf(vf x) {
  vf a = vabs(x), z = x * x;
  vf p = vfma(z, vset(7.88249711e-5f), vset(-8.01885499e-4f));
  p = vfma(p, z, vset(5.18931194e-3f));
  p = vfma(p, z, vset(-2.68543288e-2f));
  p = vfma(p, z, vset(1.12835975e-1f));
  p = vfma(p, z, vset(-3.76126269e-1f));
  p = vfma(p, z, vset(1.12837917f)) * x;
  vf t = 1.0f / vfma(a, vset(0.5f), vset(1.0f));
  vf q = vfma(t, vset(-5.35406161e-2f), vset(-5.73387354e-2f));
  q = vfma(q, t, vset(4.03838363e-1f));
  q = vfma(q, t, vset(1.01268245e-1f));
  q = vfma(q, t, vset(3.30840680e-1f));
  q = vfma(q, t, vset(2.73618153e-1f));
  q = vfma(q, t, vset(6.06408739e-4f));
  q = 1.0f - vexp(-z) * q;
  q = vselect(a > 4.0f, vset(1.0f), q);
  q = vfrombits(vbits(q) | (vbits(x) & (int32_t)0x80000000));
  return vselect(x != x, x, vselect(a < 1.0f, p, q));
}
static SLUICE_INLINE vf vgelu(vf x) { return 0.5f * x * (1.0f + verf(x * 0.707106781f)); }
/** The tanh approximation of gelu. */
static SLUICE_INLINE vf vgelu_tanh(vf x) {
  return 0.5f * x * (1.0f + vtanh(0.797884561f * vfma(x * x, x * 0.044715f, x)));
}

/** sin (shift 0) or cos (shift 1) by quarter turns; beyond 2^13 lanes go through the C library. */
static SLUICE_INLINE vf vsincos(vf x, int shift) {
  if (__builtin_expect(vany(~(vabs(x) < 8192.0f)), 0)) {
    for (int i = 0; i < VL; i++) x[i] = shift ? cosf(x[i]) : sinf(x[i]);
    return x;
  }
  const float magic = 12582912.0f;
  vf n = vfma(x, vset(0.636619772f), vset(magic)) - magic;
  // pi / 2 in three parts, the first two with trailing zero bits so that their products are exact.
  vf r = vfma(n, vset(-1.5703125f), x);
  r = vfma(n, vset(-4.83751297e-4f), r);
  r = vfma(n, vset(-7.54978995e-8f), r);
  vi q = vtoint(n) + shift;
  vf z = r * r;
  vf s = vfma(z, vset(2.75573192e-6f), vset(-1.98412698e-4f));
  s = vfma(s, z, vset(8.33333333e-3f));
  s = vfma(s, z, vset(-1.66666667e-1f));
  s = vfma(s * z, r, r);
  vf c = vfma(z, vset(-2.75573192e-7f), vset(2.48015873e-5f));
  c = vfma(c, z, vset(-1.38888889e-3f));
  c = vfma(c, z, vset(4.16666667e-2f));
  c = vfma(c * z, z, vfma(z, vset(-0.5f), vset(1.0f)));
  vf y = vselect((q & 1) == 0, s, c);
  return vfrombits(vbits(y) ^ ((q & 2) << 30));
}
static SLUICE_INLINE vf vsin(vf x) { return vsincos(x, 0); }
static SLUICE_INLINE vf vcos(vf x) { return vsincos(x, 1); }

// Half precision storage.
static SLUICE_INLINE float f16_to_f32(uint16_t h) {
  uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, rest = h & 0x7fff;
  uint32_t bits = rest << 13;
  float f;
  if (rest >= 0x7c00) {
    bits += 0x70000000;  // inf, NaN
  } else {
    // Exact for normal and subnormal halves: rebias by a multiplication.
    memcpy(&f, &bits, 4);
    f *= 5.192296858534828e33f;  // 2^112
    memcpy(&bits, &f, 4);
  }
  bits |= sign;
  memcpy(&f, &bits, 4);
  return f;
}
static SLUICE_INLINE float bf16_to_f32(uint16_t h) {
  uint32_t bits = static_cast<uint32_t>(h) << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
/** Round to nearest even, overflow to inf, subnormals kept. */
static SLUICE_INLINE uint16_t f32_to_f16(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00;
  if (bits >= 0x477ff000) return sign | 0x7c00;
  if (bits < 0x38800000) {
    // Adding 0.5 aligns the last place with that of the subnormal halves.
    float g;
    memcpy(&g, &bits, 4);
    g += 0.5f;
    memcpy(&bits, &g, 4);
    return sign | static_cast<uint16_t>(bits - 0x3f000000);
  }
  bits += 0xfff + ((bits >> 13) & 1);
  return sign | static_cast<uint16_t>((bits - 0x38000000) >> 13);
}
static SLUICE_INLINE uint16_t f32_to_bf16(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/** VL halves to floats. */
static SLUICE_INLINE vf vload_f16(const uint16_t* p) {
#if VL == 16
  return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__) && VL == 8
  return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  vf x;
  for (int i = 0; i < VL; i++) x[i] = f16_to_f32(p[i]);
  return x;
#endif
}
static SLUICE_INLINE vf vload_bf16(const uint16_t* p) {
  typedef uint16_t vh __attribute__((vector_size(VL * 2)));
  vh h;
  memcpy(&h, p, sizeof h);
  return vfrombits(__builtin_convertvector(h, vi) << 16);
}
