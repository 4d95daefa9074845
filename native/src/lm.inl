// Language-model kernels: softmax, rmsNorm, layerNorm, rope, swiglu and cross-entropy, with their gradients.
// Row-major f32. Rows (or spans of fixed length) are shared between threads; sums over rows add partial sums of a
// fixed number of rows in order, so the bits do not depend on the number of threads.
// Bound by memory; the exponentials (about 15 instructions per vector) come close to it.

#include "prims.inl"

namespace lm {

static const int64_t kSpan = 16384;   // elements per task
static const int64_t kNormRows = 64;  // rows per partial sum of dweight in rmsNormGrad and layerNormGrad

static inline int64_t rowsPerTask(int64_t width) {
  const int64_t rows = kSpan / (width > 0 ? width : 1);
  return rows > 0 ? rows : 1;
}

// The first c <= VL floats, then zeros.
static SLUICE_INLINE vf loadPart(const float* p, int64_t c) { return c == VL ? vload(p) : vloadn(p, c); }
static SLUICE_INLINE void storePart(float* p, vf x, int64_t c) {
  if (c == VL) vstore(p, x);
  else vstoren(p, x, c);
}
static SLUICE_INLINE vf keepFirst(vf x, int64_t n) { return vfrombits(vbits(x) & (vlanes() < vseti(int32_t(n)))); }

// f(i, c) for every vector of [0, n): c lanes from i on.
template <class F>
__attribute__((flatten)) static void overVectors(int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + VL <= n; i += VL) f(i, VL);
  if (i < n) f(i, n - i);
}

// e^x for x <= 0 (up to 88 works); results below 2^-126 are 0.
static SLUICE_INLINE vf expNeg(vf x) {
  const vf magic = vset(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const vf t = vfma(x, vset(1.44269504f), magic);
  const vf n = t - magic;
  const vf r = vfma(n, vset(2.12194440e-4f), vfma(n, vset(-0.693359375f), x));
  const vf y = vfma(r * r, vexp_tail(r), r) + 1.0f;
  return vfrombits((vbits(y) + (vbits(t) << 23)) & ~(x < vset(-87.3f)));
}

// Reports the first index from `limit` on, or below 0 where that has no meaning.
static bool indicesFit(const Args& args, const int32_t* indices, int64_t n, int64_t limit, bool negativeToo) {
  for (int64_t i = 0; i < n; i++) {
    if (indices[i] < limit && (indices[i] >= 0 || negativeToo)) continue;
    prims::report_bad_index(args, indices[i]);
    return false;
  }
  return true;
}

// ---- softmax ----

static float rowMax(const float* x, int64_t n) {
  int64_t i = 0;
  float best = -INFINITY;
  if (n >= VL) {
    vf m = vload(x);
    for (i = VL; i + VL <= n; i += VL) m = vmax(m, vload(x + i));
    best = vhmax(m);
  }
  for (; i < n; i++) best = x[i] > best ? x[i] : best;
  return best;
}

// Sum of exp(x - max), in four accumulators.
static float rowExpSum(const float* x, int64_t n, float max) {
  const vf m = vset(max);
  vf s[4] = {vset(0), vset(0), vset(0), vset(0)};
  int64_t i = 0;
  for (; i + 4 * VL <= n; i += 4 * VL)
    for (int j = 0; j < 4; j++) s[j] += expNeg(vload(x + i + j * VL) - m);
  for (; i + VL <= n; i += VL) s[0] += expNeg(vload(x + i) - m);
  if (i < n) s[1] += keepFirst(expNeg(loadPart(x + i, n - i) - m), n - i);
  return vhsum((s[0] + s[1]) + (s[2] + s[3]));
}

// args: x, y, rows, n
template <bool kLog>
static void softmax(Pool& pool, const Args& args) {
  const float* x = args.ptr<float>(0);
  float* y = args.ptr<float>(1);
  const int64_t rows = args.i64(2), n = args.i64(3);
  if (n == 0) return;
  pool.parallelFor(rows, rowsPerTask(n), [=](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) {
      const float* in = x + r * n;
      float* out = y + r * n;
      const float max = rowMax(in, n);
      const float sum = rowExpSum(in, n, max);
      const vf m = vset(max), inv = vset(1.0f / sum), logSum = vset(logf(sum));
      overVectors(n, [=](int64_t i, int64_t c) {
        const vf centred = loadPart(in + i, c) - m;
        storePart(out + i, kLog ? centred - logSum : expNeg(centred) * inv, c);
      });
    }
  });
}

// ---- cross-entropy ----

// args: logits [N, V], targets [N], loss [N], lse [N], N, V
static void softmaxCrossEntropy(Pool& pool, const Args& args) {
  const float* logits = args.ptr<float>(0);
  const int32_t* targets = args.ptr<int32_t>(1);
  float* loss = args.ptr<float>(2);
  float* lse = args.ptr<float>(3);
  const int64_t rows = args.i64(4), n = args.i64(5);
  if (!indicesFit(args, targets, rows, n, true)) return;
  pool.parallelFor(rows, rowsPerTask(n), [=](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) {
      const float* x = logits + r * n;
      const float max = rowMax(x, n);
      const float logSum = logf(rowExpSum(x, n, max));
      const int32_t t = targets[r];
      lse[r] = max + logSum;
      loss[r] = t < 0 ? 0.0f : (max - x[t]) + logSum;
    }
  });
}

// dlogits = (softmax - onehot) * dloss; rows without a target get 0.
// args: dloss [N], logits [N, V], targets [N], lse [N], dlogits [N, V], N, V
static void softmaxCrossEntropyGrad(Pool& pool, const Args& args) {
  const float* dloss = args.ptr<float>(0);
  const float* logits = args.ptr<float>(1);
  const int32_t* targets = args.ptr<int32_t>(2);
  const float* lse = args.ptr<float>(3);
  float* dlogits = args.ptr<float>(4);
  const int64_t rows = args.i64(5), n = args.i64(6);
  if (!indicesFit(args, targets, rows, n, true)) return;
  pool.parallelFor(rows, rowsPerTask(n), [=](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) {
      const float* x = logits + r * n;
      float* dx = dlogits + r * n;
      const int32_t t = targets[r];
      if (t < 0) {
        memset(dx, 0, size_t(n) * sizeof(float));
        continue;
      }
      const vf m = vset(lse[r]), g = vset(dloss[r]);
      overVectors(n, [=](int64_t i, int64_t c) { storePart(dx + i, expNeg(loadPart(x + i, c) - m) * g, c); });
      dx[t] -= dloss[r];
    }
  });
}

// ---- rmsNorm ----

static float dot(const float* a, const float* b, int64_t n) {
  vf s[2] = {vset(0), vset(0)};
  int64_t i = 0;
  for (; i + 2 * VL <= n; i += 2 * VL)
    for (int j = 0; j < 2; j++) s[j] += vload(a + i + j * VL) * vload(b + i + j * VL);
  for (; i < n; i += VL) {
    const int64_t c = n - i < VL ? n - i : VL;
    s[0] += loadPart(a + i, c) * loadPart(b + i, c);
  }
  return vhsum(s[0] + s[1]);
}

// y = x * rstd * (offset + weight), rstd = 1 / sqrt(mean(x^2) + eps)
// args: x [N, D], weight [D], y [N, D], rstd [N], N, D, eps, offset
static void rmsNorm(Pool& pool, const Args& args) {
  const float* x = args.ptr<float>(0);
  const float* weight = args.ptr<float>(1);
  float* y = args.ptr<float>(2);
  float* rstd = args.ptr<float>(3);
  const int64_t rows = args.i64(4), n = args.i64(5);
  const double eps = args.f64(6);
  const vf offset = vset(args.f32(7));
  pool.parallelFor(rows, rowsPerTask(n), [=](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) {
      const float* in = x + r * n;
      float* out = y + r * n;
      const float inv = float(1.0 / sqrt(double(dot(in, in, n)) / double(n) + eps));
      const vf scale = vset(inv);
      rstd[r] = inv;
      overVectors(n, [=](int64_t i, int64_t c) {
        storePart(out + i, loadPart(in + i, c) * scale * (offset + loadPart(weight + i, c)), c);
      });
    }
  });
}

// With w = offset + weight: dx = rstd * (w dy - x * rstd^2 * mean(w dy x)), dweight = sum over rows of dy x rstd.
// args: dy [N, D], x [N, D], weight [D], rstd [N], dx [N, D], dweight [D], N, D, offset
static void rmsNormGrad(Pool& pool, const Args& args) {
  const float* dy = args.ptr<float>(0);
  const float* x = args.ptr<float>(1);
  const float* weight = args.ptr<float>(2);
  const float* rstd = args.ptr<float>(3);
  float* dx = args.ptr<float>(4);
  float* dweight = args.ptr<float>(5);
  const int64_t rows = args.i64(6), n = args.i64(7);
  const vf offset = vset(args.f32(8));
  const int64_t chunks = (rows + kNormRows - 1) / kNormRows;
  float* partial = static_cast<float*>(pool.shared(chunks * n * int64_t(sizeof(float))));
  pool.parallelFor(chunks, 1, [=](int64_t begin, int64_t end, int) {
    for (int64_t chunk = begin; chunk < end; chunk++) {
      float* dw = partial + chunk * n;
      memset(dw, 0, size_t(n) * sizeof(float));
      const int64_t last = (chunk + 1) * kNormRows < rows ? (chunk + 1) * kNormRows : rows;
      for (int64_t r = chunk * kNormRows; r < last; r++) {
        const float* g = dy + r * n;
        const float* in = x + r * n;
        float* out = dx + r * n;
        vf sum = vset(0);
        vf* sumAt = &sum;
        overVectors(n, [=](int64_t i, int64_t c) {
          *sumAt += (offset + loadPart(weight + i, c)) * loadPart(g + i, c) * loadPart(in + i, c);
        });
        const float s = rstd[r];
        const vf scale = vset(s), back = vset(s * s * vhsum(sum) / float(n));
        overVectors(n, [=](int64_t i, int64_t c) {
          const vf gv = loadPart(g + i, c), xs = loadPart(in + i, c) * scale;
          storePart(dw + i, loadPart(dw + i, c) + gv * xs, c);
          storePart(out + i, ((offset + loadPart(weight + i, c)) * gv) * scale - xs * back, c);
        });
      }
    }
  });
  pool.parallelFor(n, 64, [=](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) dweight[i] = 0;
    for (int64_t chunk = 0; chunk < chunks; chunk++)
      for (int64_t i = begin; i < end; i++) dweight[i] += partial[chunk * n + i];
  });
}

// ---- layerNorm ----

// y = (x - mean) * rstd * weight + bias, rstd = 1 / sqrt(variance + eps); the variance is taken around the mean.
// args: x [N, D], weight [D], bias [D] or none, y [N, D], mean [N], rstd [N], N, D, eps
static void layerNorm(Pool& pool, const Args& args) {
  const float* x = args.ptr<float>(0);
  const float* weight = args.ptr<float>(1);
  const float* bias = args.ptr<float>(2);
  float* y = args.ptr<float>(3);
  float* mean = args.ptr<float>(4);
  float* rstd = args.ptr<float>(5);
  const int64_t rows = args.i64(6), n = args.i64(7);
  const double eps = args.f64(8);
  pool.parallelFor(rows, rowsPerTask(n), [=](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) {
      const float* in = x + r * n;
      float* out = y + r * n;
      vf sum = vset(0), squares = vset(0);
      vf *sumAt = &sum, *squaresAt = &squares;
      overVectors(n, [=](int64_t i, int64_t c) { *sumAt += loadPart(in + i, c); });
      const float m = float(double(vhsum(sum)) / double(n));
      const vf middle = vset(m);
      overVectors(n, [=](int64_t i, int64_t c) {
        const vf centred = keepFirst(loadPart(in + i, c) - middle, c);
        *squaresAt += centred * centred;
      });
      const float inv = float(1.0 / sqrt(double(vhsum(squares)) / double(n) + eps));
      const vf scale = vset(inv);
      mean[r] = m;
      rstd[r] = inv;
      overVectors(n, [=](int64_t i, int64_t c) {
        const vf z = (loadPart(in + i, c) - middle) * scale * loadPart(weight + i, c);
        storePart(out + i, bias ? z + loadPart(bias + i, c) : z, c);
      });
    }
  });
}

// With z = (x - mean) rstd and h = dy weight: dx = rstd (h - mean(h) - z mean(h z)), dweight = sum of dy z over rows,
// dbias = sum of dy over rows.
// args: dy [N, D], x [N, D], weight [D], mean [N], rstd [N], dx [N, D], dweight [D], dbias [D], N, D
static void layerNormGrad(Pool& pool, const Args& args) {
  const float* dy = args.ptr<float>(0);
  const float* x = args.ptr<float>(1);
  const float* weight = args.ptr<float>(2);
  const float* mean = args.ptr<float>(3);
  const float* rstd = args.ptr<float>(4);
  float* dx = args.ptr<float>(5);
  float* dweight = args.ptr<float>(6);
  float* dbias = args.ptr<float>(7);
  const int64_t rows = args.i64(8), n = args.i64(9);
  const int64_t chunks = (rows + kNormRows - 1) / kNormRows;
  float* partial = static_cast<float*>(pool.shared(2 * chunks * n * int64_t(sizeof(float))));
  pool.parallelFor(chunks, 1, [=](int64_t begin, int64_t end, int) {
    for (int64_t chunk = begin; chunk < end; chunk++) {
      float* dw = partial + 2 * chunk * n;
      float* db = dw + n;
      memset(dw, 0, 2 * size_t(n) * sizeof(float));
      const int64_t last = (chunk + 1) * kNormRows < rows ? (chunk + 1) * kNormRows : rows;
      for (int64_t r = chunk * kNormRows; r < last; r++) {
        const float* g = dy + r * n;
        const float* in = x + r * n;
        float* out = dx + r * n;
        const vf middle = vset(mean[r]), scale = vset(rstd[r]);
        vf total = vset(0), dot = vset(0);
        vf *totalAt = &total, *dotAt = &dot;
        overVectors(n, [=](int64_t i, int64_t c) {
          const vf gv = loadPart(g + i, c), h = gv * loadPart(weight + i, c);
          const vf z = (loadPart(in + i, c) - middle) * scale;
          *totalAt += h;
          *dotAt += h * z;
          storePart(dw + i, loadPart(dw + i, c) + gv * z, c);
          storePart(db + i, loadPart(db + i, c) + gv, c);
        });
        const vf common = vset(vhsum(total) / float(n)), along = vset(vhsum(dot) / float(n));
        overVectors(n, [=](int64_t i, int64_t c) {
          const vf z = (loadPart(in + i, c) - middle) * scale;
          storePart(out + i, scale * (loadPart(g + i, c) * loadPart(weight + i, c) - common - z * along), c);
        });
      }
    }
  });
  pool.parallelFor(n, 64, [=](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) dweight[i] = dbias[i] = 0;
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
      const float* part = partial + 2 * chunk * n;
      for (int64_t i = begin; i < end; i++) {
        dweight[i] += part[i];
        dbias[i] += part[n + i];
      }
    }
  });
}

// ---- rope ----

// Rotates the pairs (i, i + R/2) of the first R dimensions by the angle of the position; copies the rest.
// args: x [B, T, H, D], cos [P, R/2], sin [P, R/2], positions [B, T], y, tokens = B T, H, D, R/2, inverse, P
static void rope(Pool& pool, const Args& args) {
  const float* x = args.ptr<float>(0);
  const float* cosines = args.ptr<float>(1);
  const float* sines = args.ptr<float>(2);
  const int32_t* positions = args.ptr<int32_t>(3);
  float* y = args.ptr<float>(4);
  const int64_t tokens = args.i64(5), heads = args.i64(6), dim = args.i64(7), half = args.i64(8);
  const float sign = args.i64(9) ? -1.0f : 1.0f;
  if (!indicesFit(args, positions, tokens, args.i64(10), false)) return;
  pool.parallelFor(tokens, rowsPerTask(heads * dim), [=](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      const float* c = cosines + positions[t] * half;
      const float* s = sines + positions[t] * half;
      for (int64_t h = 0; h < heads; h++) {
        const float* in = x + (t * heads + h) * dim;
        float* out = y + (t * heads + h) * dim;
        int64_t i = 0;
        for (; i + VL <= half; i += VL) {
          const vf a = vload(in + i), b = vload(in + half + i);
          const vf cv = vload(c + i), sv = vload(s + i) * vset(sign);
          vstore(out + i, a * cv - b * sv);
          vstore(out + half + i, b * cv + a * sv);
        }
        for (; i < half; i++) {  // narrow heads: cheaper than vectors of which a part counts
          const float a = in[i], b = in[half + i], sv = s[i] * sign;
          out[i] = a * c[i] - b * sv;
          out[half + i] = b * c[i] + a * sv;
        }
        if (dim > 2 * half) memcpy(out + 2 * half, in + 2 * half, size_t(dim - 2 * half) * sizeof(float));
      }
    }
  });
}

// ---- swiglu ----

// args: gate, up, y, elements
static void swiglu(Pool& pool, const Args& args) {
  const float* gate = args.ptr<float>(0);
  const float* up = args.ptr<float>(1);
  float* y = args.ptr<float>(2);
  pool.parallelFor(args.i64(3), kSpan, [=](int64_t begin, int64_t end, int) {
    overVectors(end - begin, [=](int64_t i, int64_t c) {
      const vf g = loadPart(gate + begin + i, c);
      storePart(y + begin + i, g * vsigmoid(g) * loadPart(up + begin + i, c), c);
    });
  });
}

// args: dy, gate, up, dgate, dup, elements
static void swigluGrad(Pool& pool, const Args& args) {
  const float* dy = args.ptr<float>(0);
  const float* gate = args.ptr<float>(1);
  const float* up = args.ptr<float>(2);
  float* dgate = args.ptr<float>(3);
  float* dup = args.ptr<float>(4);
  pool.parallelFor(args.i64(5), kSpan, [=](int64_t begin, int64_t end, int) {
    overVectors(end - begin, [=](int64_t i, int64_t c) {
      const int64_t at = begin + i;
      const vf g = loadPart(gate + at, c), d = loadPart(dy + at, c), s = vsigmoid(g);
      storePart(dup + at, d * g * s, c);
      storePart(dgate + at, d * loadPart(up + at, c) * s * (vset(1.0f) + g * (vset(1.0f) - s)), c);
    });
  });
}

}  // namespace lm

static void register_lm(Registry& r) {
  r.add("softmax", lm::softmax<false>);
  r.add("logSoftmax", lm::softmax<true>);
  r.add("softmaxCrossEntropy", lm::softmaxCrossEntropy);
  r.add("softmaxCrossEntropyGrad", lm::softmaxCrossEntropyGrad);
  r.add("rmsNorm", lm::rmsNorm);
  r.add("rmsNormGrad", lm::rmsNormGrad);
  r.add("layerNorm", lm::layerNorm);
  r.add("layerNormGrad", lm::layerNormGrad);
  r.add("rope", lm::rope);
  r.add("swiglu", lm::swiglu);
  r.add("swigluGrad", lm::swigluGrad);
}
