// Optimiser passes: AdamW, the same for unit-norm rows, row normalisation and projection, sums of squares.
// Each number is read and written once; rows and fixed spans are shared between threads. Bound by memory.

#include "prims.inl"

namespace prims {

struct AdamStep {
  float keep, beta1, beta2, rest1, rest2, eps, step, root, scale;

  // From args[at]: 1 - lr * weightDecay, beta1, beta2, eps, lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), gradScale.
  AdamStep(const Args& args, int at)
      : keep(args.f32(at)), beta1(args.f32(at + 1)), beta2(args.f32(at + 2)),
        rest1((float)(1 - args.f64(at + 1))), rest2((float)(1 - args.f64(at + 2))), eps(args.f32(at + 3)),
        step(args.f32(at + 4)), root(args.f32(at + 5)), scale(args.f32(at + 6)) {}

  SLUICE_INLINE vf apply(vf p, vf g, vf* m, vf* v) const {
    g = g * scale;
    *m = *m * beta1 + g * rest1;
    *v = *v * beta2 + g * g * rest2;
    return p * keep - step * *m / (vsqrt(*v) * root + eps);
  }

  // p, m and v of n numbers, with the gradient g - along * p.
  SLUICE_INLINE void run(float* p, const float* g, float* m, float* v, int64_t n, float along) const {
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
      vf pi = vload(p + i), mi = vload(m + i), vi_ = vload(v + i);
      pi = apply(pi, vload(g + i) - along * pi, &mi, &vi_);
      vstore(p + i, pi);
      vstore(m + i, mi);
      vstore(v + i, vi_);
    }
    if (i == n) return;
    vf pi = vloadn(p + i, n - i), mi = vloadn(m + i, n - i), vi_ = vloadn(v + i, n - i, 1.0f);
    pi = apply(pi, vloadn(g + i, n - i) - along * pi, &mi, &vi_);
    vstoren(p + i, pi, n - i);
    vstoren(m + i, mi, n - i);
    vstoren(v + i, vi_, n - i);
  }
};

// args: param, grad, m, v, n, then those of AdamStep; param, m and v in place
static void adam(Pool& pool, const Args& args) {
  float* p = args.ptr<float>(0);
  const float* g = args.ptr<const float>(1);
  float* m = args.ptr<float>(2);
  float* v = args.ptr<float>(3);
  const AdamStep step(args, 5);
  parallel(pool, args.i64(4), 8192, [=](int64_t begin, int64_t end, int) {
    step.run(p + begin, g + begin, m + begin, v + begin, end - begin, 0.0f);
  });
}

static SLUICE_INLINE float parallel_part(const float* g, const float* w, int64_t d) {
  const float length2 = dot(w, w, d);
  return length2 > 0 ? dot(g, w, d) / length2 : 0.0f;
}

static SLUICE_INLINE void scale_to_unit(float* w, int64_t d, float eps) {
  const float length = (float)sqrt(sum_squares(w, d));
  const float factor = 1.0f / (length > eps ? length : eps);
  for (int64_t i = 0; i < d; i++) w[i] *= factor;
}

// args: param [F, D], grad, m, v, F, those of AdamStep (5..11), D, project, normalize, eps of the norm.
// Per row: takes the part along the row out of the gradient, steps, and scales the row back to unit length.
static void adam_rows(Pool& pool, const Args& args) {
  float* p = args.ptr<float>(0);
  const float* g = args.ptr<const float>(1);
  float* m = args.ptr<float>(2);
  float* v = args.ptr<float>(3);
  const AdamStep step(args, 5);
  const int64_t d = args.i64(12);
  const bool project = args.i64(13) != 0, normalize = args.i64(14) != 0;
  const float eps = args.f32(15);
  if (d == 0) return;
  parallel(pool, args.i64(4), ceil_div(8192, d), [=](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) {
      const int64_t at = r * d;
      step.run(p + at, g + at, m + at, v + at, d, project ? parallel_part(g + at, p + at, d) : 0.0f);
      if (normalize) scale_to_unit(p + at, d, eps);
    }
  });
}

// args: x, out [], n; spans of 8192 in double, added in order
static void sum_squares_all(Pool& pool, const Args& args) {
  const float* x = args.ptr<const float>(0);
  const int64_t n = args.i64(2), span = 8192, spans = ceil_div(n, span);
  double* partial = (double*)pool.shared(spans * 8 + 64);
  parallel(pool, n, span, [=](int64_t begin, int64_t end, int) {
    partial[begin / span] = sum_squares(x + begin, end - begin);
  });
  double total = 0;
  for (int64_t s = 0; s < spans; s++) total += partial[s];
  *args.ptr<float>(1) = (float)total;
}

// args: w [F, D] (in place), F, D, eps
static void normalize_rows(Pool& pool, const Args& args) {
  float* w = args.ptr<float>(0);
  const int64_t d = args.i64(2);
  const float eps = args.f32(3);
  if (d == 0) return;
  parallel(pool, args.i64(1), ceil_div(8192, d), [=](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) scale_to_unit(w + r * d, d, eps);
  });
}

// args: grad [F, D] (in place), w [F, D], F, D
static void project_rows(Pool& pool, const Args& args) {
  float* g = args.ptr<float>(0);
  const float* w = args.ptr<const float>(1);
  const int64_t d = args.i64(3);
  if (d == 0) return;
  parallel(pool, args.i64(2), ceil_div(8192, d), [=](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) {
      const float along = parallel_part(g + r * d, w + r * d, d);
      for (int64_t i = r * d; i < (r + 1) * d; i++) g[i] -= along * w[i];
    }
  });
}

static void register_optim(Registry& r) {
  r.add("adam", adam);
  r.add("adamRows", adam_rows);
  r.add("sumSquares", sum_squares_all);
  r.add("normalizeRows", normalize_rows);
  r.add("projectRows", project_rows);
}

}  // namespace prims

using prims::register_optim;
