// Elementwise kernels: unary maths, broadcasting binary maths, where, cast, fill, scale, accumulate.
// Layout: outputs are contiguous; binary inputs may be strided (stride 0 broadcasts). Threads share nothing: each
// task owns a range of the output. Bound by memory, except exp, log, tanh, sin and cos.

#include "prims.inl"

namespace prims {

static const int64_t kGrain = 16384;  // elements per task

struct Neg { static SLUICE_INLINE vf f(vf x) { return -x; } };
struct Exp { static SLUICE_INLINE vf f(vf x) { return vexp(x); } };
struct Log { static SLUICE_INLINE vf f(vf x) { return vlog(x); } };
struct Sqrt { static SLUICE_INLINE vf f(vf x) { return vsqrt(x); } };
struct Rsqrt { static SLUICE_INLINE vf f(vf x) { return 1.0f / vsqrt(x); } };
struct Tanh { static SLUICE_INLINE vf f(vf x) { return vtanh(x); } };
struct Sigmoid { static SLUICE_INLINE vf f(vf x) { return vsigmoid(x); } };
struct Relu { static SLUICE_INLINE vf f(vf x) { return vselect(x < vf{}, vf{}, x); } };  // NaN stays NaN
struct Abs { static SLUICE_INLINE vf f(vf x) { return vabs(x); } };
struct Square { static SLUICE_INLINE vf f(vf x) { return x * x; } };
struct Reciprocal { static SLUICE_INLINE vf f(vf x) { return 1.0f / x; } };
struct Sin { static SLUICE_INLINE vf f(vf x) { return vsin(x); } };
struct Cos { static SLUICE_INLINE vf f(vf x) { return vcos(x); } };

struct Add { static SLUICE_INLINE float f(float a, float b) { return a + b; } };
struct Sub { static SLUICE_INLINE float f(float a, float b) { return a - b; } };
struct Mul { static SLUICE_INLINE float f(float a, float b) { return a * b; } };
struct Div { static SLUICE_INLINE float f(float a, float b) { return a / b; } };
// A NaN on either side gives NaN, as Math.max does.
struct Maximum { static SLUICE_INLINE float f(float a, float b) { return (a > b) | (a != a) ? a : b; } };
struct Minimum { static SLUICE_INLINE float f(float a, float b) { return (a < b) | (a != a) ? a : b; } };
struct Greater { static SLUICE_INLINE float f(float a, float b) { return a > b ? 1.0f : 0.0f; } };
struct GreaterEqual { static SLUICE_INLINE float f(float a, float b) { return a >= b ? 1.0f : 0.0f; } };
struct Equal { static SLUICE_INLINE float f(float a, float b) { return a == b ? 1.0f : 0.0f; } };

// args: x, out, n
template <class Op>
static void unary(Pool& pool, const Args& args) {
  const float* x = args.ptr<const float>(0);
  float* out = args.ptr<float>(1);
  parallel(pool, args.i64(2), kGrain, [=](int64_t begin, int64_t end, int) {
    int64_t i = begin;
    for (; i + VL <= end; i += VL) vstore(out + i, Op::f(vload(x + i)));
    if (i < end) vstoren(out + i, Op::f(vloadn(x + i, end - i, 1.0f)), end - i);
  });
}

// One run of n outputs with constant strides of both inputs.
template <class Op>
static SLUICE_INLINE void binary_run(const float* __restrict a, int64_t sa, const float* __restrict b, int64_t sb,
                              float* __restrict out, int64_t n) {
  if (sa == 1 && sb == 1) {
    for (int64_t i = 0; i < n; i++) out[i] = Op::f(a[i], b[i]);
  } else if (sa == 1 && sb == 0) {
    const float y = *b;
    for (int64_t i = 0; i < n; i++) out[i] = Op::f(a[i], y);
  } else if (sa == 0 && sb == 1) {
    const float x = *a;
    for (int64_t i = 0; i < n; i++) out[i] = Op::f(x, b[i]);
  } else {
    for (int64_t i = 0; i < n; i++) out[i] = Op::f(a[i * sa], b[i * sb]);
  }
}

// args: a, b, out, nd, dims[nd], strides of a[nd], strides of b[nd]  (nd >= 1)
template <class Op>
static void binary(Pool& pool, const Args& args) {
  const float* a = args.ptr<const float>(0);
  const float* b = args.ptr<const float>(1);
  float* out = args.ptr<float>(2);
  const Loops<2> loops(args, 3);
  parallel(pool, loops.total(), kGrain, [&loops, a, b, out](int64_t begin, int64_t end, int) {
    const int64_t sa = loops.stride[0][loops.nd - 1], sb = loops.stride[1][loops.nd - 1];
    loops.runs(begin, end, [=](int64_t i, const int64_t* at, int64_t n) {
      binary_run<Op>(a + at[0], sa, b + at[1], sb, out + i, n);
    });
  });
}

// args: cond, a, b, out, n
static void where(Pool& pool, const Args& args) {
  const float* c = args.ptr<const float>(0);
  const float* a = args.ptr<const float>(1);
  const float* b = args.ptr<const float>(2);
  float* out = args.ptr<float>(3);
  parallel(pool, args.i64(4), kGrain, [=](int64_t begin, int64_t end, int) {
    float* __restrict dst = out;
    for (int64_t i = begin; i < end; i++) dst[i] = c[i] != 0.0f ? a[i] : b[i];
  });
}

// args: x, out, n, dtype of x, dtype of out. Everything passes through f32, 512 elements at a time.
static void cast(Pool& pool, const Args& args) {
  const char* x = args.ptr<const char>(0);
  char* out = args.ptr<char>(1);
  const int from = (int)args.i64(3), to = (int)args.i64(4);
  parallel(pool, args.i64(2), kGrain, [=](int64_t begin, int64_t end, int) {
    float chunk[512];
    for (int64_t i = begin; i < end; i += 512) {
      const int64_t n = end - i < 512 ? end - i : 512;
      half_load(x, i, chunk, n, from);
      half_store(chunk, out, i, n, to);
    }
  });
}

// args: out, n, value, dtype
static void fill(Pool& pool, const Args& args) {
  char* out = args.ptr<char>(0);
  const int dtype = (int)args.i64(3);
  if (dtype == 3) {
    int32_t* dst = (int32_t*)out;
    const int32_t value = (int32_t)args.i64(2);
    parallel(pool, args.i64(1), kGrain, [=](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; i++) dst[i] = value;
    });
    return;
  }
  float chunk[512];
  for (float& c : chunk) c = args.f32(2);
  const float* src = chunk;
  parallel(pool, args.i64(1), kGrain, [=](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i += 512) half_store(src, out, i, end - i < 512 ? end - i : 512, dtype);
  });
}

// args: x (in place), n, factor
static void scale(Pool& pool, const Args& args) {
  float* x = args.ptr<float>(0);
  const float factor = args.f32(2);
  parallel(pool, args.i64(1), kGrain, [=](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) x[i] *= factor;
  });
}

// args: y (in place, contiguous), x, nd, dims[nd], strides of x[nd]  (nd >= 1)
static void accumulate(Pool& pool, const Args& args) {
  float* y = args.ptr<float>(0);
  const float* x = args.ptr<const float>(1);
  const Loops<1> loops(args, 2);
  parallel(pool, loops.total(), kGrain, [&loops, x, y](int64_t begin, int64_t end, int) {
    const int64_t step = loops.stride[0][loops.nd - 1];
    loops.runs(begin, end, [=](int64_t i, const int64_t* at, int64_t n) {
      float* __restrict to = y + i;
      const float* __restrict from = x + at[0];
      if (step == 1)
        for (int64_t e = 0; e < n; e++) to[e] += from[e];
      else
        for (int64_t e = 0; e < n; e++) to[e] += from[e * step];
    });
  });
}

static void register_elementwise(Registry& r) {
  r.add("neg", unary<Neg>);
  r.add("exp", unary<Exp>);
  r.add("log", unary<Log>);
  r.add("sqrt", unary<Sqrt>);
  r.add("rsqrt", unary<Rsqrt>);
  r.add("tanh", unary<Tanh>);
  r.add("sigmoid", unary<Sigmoid>);
  r.add("relu", unary<Relu>);
  r.add("abs", unary<Abs>);
  r.add("square", unary<Square>);
  r.add("reciprocal", unary<Reciprocal>);
  r.add("sin", unary<Sin>);
  r.add("cos", unary<Cos>);
  r.add("add", binary<Add>);
  r.add("sub", binary<Sub>);
  r.add("mul", binary<Mul>);
  r.add("div", binary<Div>);
  r.add("maximum", binary<Maximum>);
  r.add("minimum", binary<Minimum>);
  r.add("greater", binary<Greater>);
  r.add("greaterEqual", binary<GreaterEqual>);
  r.add("equal", binary<Equal>);
  r.add("where", where);
  r.add("cast", cast);
  r.add("fill", fill);
  r.add("scale", scale);
  r.add("accumulate", accumulate);
}

}  // namespace prims

using prims::register_elementwise;
