// What the primitive kernels share: fixed-size tasks, strided loops, half-precision load and store, vector sums.
// Included inside the namespace of every ISA.
#pragma once

namespace prims {

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Runs fn(begin, end, worker) over [0, n) in tasks of exactly `grain` items (the last may be shorter), so that the
// split of the work, and with it every rounding, is the same for any number of threads.
template <class Fn>
static inline void parallel(Pool& pool, int64_t n, int64_t grain, const Fn& fn) {
  if (n <= 0) return;
  if (n <= grain) {
    fn((int64_t)0, n, 0);
    return;
  }
  pool.parallelFor(ceil_div(n, grain), 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t t = begin; t < end; t++) fn(t * grain, min64(n, (t + 1) * grain), worker);
  });
}

// The last two slots of the argument block report an index out of range to the binding.
static inline void report_bad_index(const Args& args, int64_t index) {
  double* status = const_cast<double*>(args.a) + 62;
  status[0] = 1;
  status[1] = (double)index;
}

static inline float dot(const float* __restrict a, const float* __restrict b, int64_t n) {
  vf s0 = {}, s1 = {}, s2 = {}, s3 = {};
  int64_t i = 0;
  for (; i + 4 * VL <= n; i += 4 * VL) {
    s0 += vload(a + i) * vload(b + i);
    s1 += vload(a + i + VL) * vload(b + i + VL);
    s2 += vload(a + i + 2 * VL) * vload(b + i + 2 * VL);
    s3 += vload(a + i + 3 * VL) * vload(b + i + 3 * VL);
  }
  for (; i + VL <= n; i += VL) s0 += vload(a + i) * vload(b + i);
  float tail = 0;
  for (; i < n; i++) tail += a[i] * b[i];
  return vhsum((s0 + s1) + (s2 + s3)) + tail;
}

// Sums in f32 lanes over 512 elements at a time, then in double.
static inline double sum_squares(const float* x, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; i += 512) total += (double)dot(x + i, x + i, min64(512, n - i));
  return total;
}
static inline double sum_blocked(const float* x, int64_t n) {
  double total = 0;
  for (int64_t from = 0; from < n; from += 512) {
    const int64_t to = min64(n, from + 512);
    vf s0 = {}, s1 = {};
    int64_t i = from;
    for (; i + 2 * VL <= to; i += 2 * VL) {
      s0 += vload(x + i);
      s1 += vload(x + i + VL);
    }
    float tail = 0;
    for (; i < to; i++) tail += x[i];
    total += (double)(vhsum(s0 + s1) + tail);
  }
  return total;
}

// Nested loops over an index space with N strided operands. Argument block from `at`: nd, dims[nd], then N times
// strides[nd]. nd is at least 1; the binding has merged what can be merged.
template <int N>
struct Loops {
  int nd;
  int64_t dim[16], stride[N][16];

  Loops(const Args& args, int at) {
    nd = (int)args.i64(at);
    for (int d = 0; d < nd; d++) {
      dim[d] = args.i64(at + 1 + d);
      for (int k = 0; k < N; k++) stride[k][d] = args.i64(at + 1 + (k + 1) * nd + d);
    }
  }
  int64_t total() const {
    int64_t n = 1;
    for (int d = 0; d < nd; d++) n *= dim[d];
    return n;
  }
  // Calls fn(flat index, operand offsets, length) for every run along the last dimension inside [begin, end).
  template <class Fn>
  void runs(int64_t begin, int64_t end, const Fn& fn) const {
    int64_t index[16], rest = begin;
    for (int d = nd - 1; d >= 0; d--) {
      index[d] = rest % dim[d];
      rest /= dim[d];
    }
    int64_t at[N];
    for (int k = 0; k < N; k++) {
      at[k] = 0;
      for (int d = 0; d < nd; d++) at[k] += index[d] * stride[k][d];
    }
    for (int64_t i = begin; i < end;) {
      const int64_t n = min64(dim[nd - 1] - index[nd - 1], end - i);
      fn(i, (const int64_t*)at, n);
      i += n;
      for (int k = 0; k < N; k++) at[k] -= index[nd - 1] * stride[k][nd - 1];
      index[nd - 1] = 0;
      for (int d = nd - 2; d >= 0; d--) {
        for (int k = 0; k < N; k++) at[k] += stride[k][d];
        if (++index[d] < dim[d]) break;
        for (int k = 0; k < N; k++) at[k] -= dim[d] * stride[k][d];
        index[d] = 0;
      }
    }
  }
};

// Reads n elements from element `at` of `src` as f32.
static inline void half_load(const char* src, int64_t at, float* __restrict out, int64_t n, int dtype) {
  int64_t i = 0;
  if (dtype == F32) {
    memcpy(out, (const float*)src + at, n * 4);
  } else if (dtype == F16) {
    const uint16_t* s = (const uint16_t*)src + at;
    for (; i + VL <= n; i += VL) vstore(out + i, vload_f16(s + i));
    for (; i < n; i++) out[i] = f16_to_f32(s[i]);
  } else if (dtype == BF16) {
    const uint16_t* s = (const uint16_t*)src + at;
    for (; i + VL <= n; i += VL) vstore(out + i, vload_bf16(s + i));
    for (; i < n; i++) out[i] = bf16_to_f32(s[i]);
  } else {
    const int32_t* s = (const int32_t*)src + at;
    for (; i < n; i++) out[i] = (float)s[i];
  }
}

static inline int32_t truncate(float v) {
  if (v != v) return 0;
  return v >= 2147483648.0f ? INT32_MAX : v <= -2147483648.0f ? INT32_MIN : (int32_t)v;
}

// Writes n f32 numbers to element `at` of `dst`; f16 and bf16 round to nearest even, i32 truncates (NaN gives 0).
static inline void half_store(const float* __restrict x, char* dst, int64_t at, int64_t n, int dtype) {
  int64_t i = 0;
  if (dtype == F32) {
    memcpy((float*)dst + at, x, n * 4);
  } else if (dtype == F16) {
    uint16_t* d = (uint16_t*)dst + at;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8) _mm_storeu_si128((__m128i*)(d + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), 0));
#endif
    for (; i < n; i++) d[i] = f32_to_f16(x[i]);
  } else if (dtype == BF16) {
    uint16_t* __restrict d = (uint16_t*)dst + at;
    for (; i < n; i++) d[i] = f32_to_bf16(x[i]);
  } else {
    int32_t* d = (int32_t*)dst + at;
    for (; i < n; i++) d[i] = truncate(x[i]);
  }
}

}  // namespace prims
