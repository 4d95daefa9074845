// The routing of LIMe and its gradient: per token, every head of the result is a weighted sum over the heads
// of all sources. M tokens, S sources, G heads, D head width. A source is [M, G, D] and is read where it
// lies, by its pointer in a table; router [G, S G]. Keys and values are two sides with one router. Threads
// share the tokens: a row of a source is read once, by one thread, and a tile of heads is summed up in
// registers, a vector along the head width. The gradient of the router is summed over spans of tokens that
// depend on the sizes alone, and these sums are added in order. Bound by memory once the sources leave the
// cache, by arithmetic before.

namespace lime {

static_assert(sizeof(float*) == 8, "the table holds 64-bit addresses");

static const int kHeads = 4;           // heads of a tile
static const int kWide = 2;            // vectors of a tile
static const int64_t kFloats = 16384;  // of a tensor, per task
static const int64_t kBlock = 8192;    // of a tensor, that go through the gradient at once: three fit L2

/** Tensors of heads, and the weights with which their heads are summed into those of another one. */
struct Mix {
  const float* const* from;  // [count]
  const float* weights;      // [G / kHeads][count G][kHeads], the last tile as narrow as it is
  int64_t count, G, D;
  int64_t total;  // floats of a tensor
  bool add;       // to what is there
};

/** Weights in the order of a Mix; those of head i are at router[i stride], `step` apart. */
static void pack_weights(const float* router, int64_t G, int64_t terms, int64_t stride, int64_t step,
                         float* packed) {
  for (int64_t i = 0; i < G; i += kHeads)
    for (int64_t t = 0; t < terms; t++)
      for (int64_t h = i; h < min_of(i + kHeads, G); h++) *packed++ = router[h * stride + t * step];
}

/** V vectors of H heads, from the float `at` of a tensor on. Of a `Part` only `lanes` lanes count. */
template <int H, int V, bool Part>
static SLUICE_INLINE void mix_tile(const Mix& s, const float* w, int64_t at, float* out, int64_t lanes) {
  vf sum[H][V] = {};
  for (int64_t c = 0; c < s.count; c++) {
    const float* x = s.from[c] + at;
    const float* last = s.from[c] + s.total - VL;  // the last whole vector, maybe of several heads
    for (int64_t g = 0; g < s.G; g++, x += s.D, w += H) {
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) {
        const vf xv = Part && x > last ? vloadn(x, lanes) : vload(x + v * VL);
#pragma GCC unroll 8
        for (int h = 0; h < H; h++) sum[h][v] = vfma(vset(w[h]), xv, sum[h][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int h = 0; h < H; h++)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
      float* to = out + h * s.D + v * VL;
      if (s.add) sum[h][v] = (Part ? vloadn(to, lanes) : vload(to)) + sum[h][v];
      if (Part) vstoren(to, sum[h][v], lanes);
      else vstore(to, sum[h][v]);
    }
}

template <int V, bool Part>
static SLUICE_INLINE void mix_heads(const Mix& s, int64_t at, float* out, int64_t lanes) {
  const float* w = s.weights;
  int64_t left = s.G;
  for (; left >= kHeads; left -= kHeads, out += kHeads * s.D, w += kHeads * s.count * s.G)
    mix_tile<kHeads, V, Part>(s, w, at, out, lanes);
  if (left == 3) mix_tile<3, V, Part>(s, w, at, out, lanes);
  else if (left == 2) mix_tile<2, V, Part>(s, w, at, out, lanes);
  else if (left == 1) mix_tile<1, V, Part>(s, w, at, out, lanes);
}

/** The tokens [begin, end) of out. */
static void mix(const Mix& s, float* out, int64_t begin, int64_t end) {
  for (int64_t m = begin; m < end; m++) {
    const int64_t row = m * s.G * s.D;
    int64_t d = 0;
    for (; d + kWide * VL <= s.D; d += kWide * VL) mix_heads<kWide, false>(s, row + d, out + row + d, VL);
    for (; d + VL <= s.D; d += VL) mix_heads<1, false>(s, row + d, out + row + d, VL);
    if (d < s.D) mix_heads<1, true>(s, row + d, out + row + d, s.D - d);
  }
}

/** Two tensors whose heads are multiplied with each other over the tokens [begin, end). */
struct Dots {
  const float *y, *x;
  int64_t G, D, total, begin, end;
};

/** The first `lanes` floats at p, then zeros; reads a whole vector where one is left before `last`. */
static SLUICE_INLINE vf load_first(const float* p, const float* last, int64_t lanes) {
  if (p > last) return vloadn(p, lanes);
  return vfrombits(vbits(vload(p)) & (vlanes() < vseti(static_cast<int32_t>(lanes))));
}

/**
 * out[a stride + b] += the product of head h + a of y with head g + b of x, for a below H and b below X;
 * `Part` where the head width is no multiple of VL.
 */
template <int H, int X, bool Part>
static SLUICE_INLINE void dot_tile(const Dots& s, int64_t h, int64_t g, float* out, int64_t stride) {
  vf sum[X][4] = {};
  const float *lastY = s.y + s.total - VL, *lastX = s.x + s.total - VL;
  for (int64_t m = s.begin; m < s.end; m++) {
    const float* y = s.y + (m * s.G + h) * s.D;
    const float* x = s.x + (m * s.G + g) * s.D;
    int64_t d = 0;
    for (; d + VL <= s.D; d += VL) {
#pragma GCC unroll 8
      for (int a = 0; a < H; a++) {
        const vf ya = vload(y + a * s.D + d);
#pragma GCC unroll 8
        for (int b = 0; b < X; b++) sum[b][a] = vfma(ya, vload(x + b * s.D + d), sum[b][a]);
      }
    }
    if (!Part) continue;
#pragma GCC unroll 8
    for (int a = 0; a < H; a++) {
      const vf ya = load_first(y + a * s.D + d, lastY, s.D - d);
#pragma GCC unroll 8
      for (int b = 0; b < X; b++) sum[b][a] += ya * load_first(x + b * s.D + d, lastX, s.D - d);
    }
  }
#pragma GCC unroll 8
  for (int b = 0; b < X; b++) {
    float found[4];
    vhsum4(sum[b][0], sum[b][1], sum[b][2], sum[b][3], found);
    for (int a = 0; a < H; a++) out[a * stride + b] += found[a];
  }
}

template <int H, bool Part>
static SLUICE_INLINE void dot_heads(const Dots& s, int64_t h, float* out, int64_t stride) {
  int64_t g = 0;
  for (; g + 2 <= s.G; g += 2) dot_tile<H, 2, Part>(s, h, g, out + g, stride);
  if (g < s.G) dot_tile<H, 1, Part>(s, h, g, out + g, stride);
}

/** out[h stride + g] += Σ over tokens of y[h] · x[g]. */
template <bool Part>
static void dots(const Dots& s, float* out, int64_t stride) {
  int64_t h = 0;
  for (; h + kHeads <= s.G; h += kHeads) dot_heads<kHeads, Part>(s, h, out + h * stride, stride);
  const int64_t left = s.G - h;
  if (left == 3) dot_heads<3, Part>(s, h, out + h * stride, stride);
  else if (left == 2) dot_heads<2, Part>(s, h, out + h * stride, stride);
  else if (left == 1) dot_heads<1, Part>(s, h, out + h * stride, stride);
}

/** limeRoute: router, table, M, S, G, D; the table has keys and values, then the S sources of each. */
static void route(Pool& pool, const Args& args) {
  const float* router = args.ptr<const float>(0);
  float* const* table = args.ptr<float* const>(1);
  const int64_t M = args.i64(2), S = args.i64(3), G = args.i64(4), D = args.i64(5);
  if (M * G * D == 0) return;
  float* weights = static_cast<float*>(pool.shared(G * S * G * 4));
  pack_weights(router, G, S * G, S * G, 1, weights);
  pool.parallelFor(M, ceil_div(kFloats, G * D), [=](int64_t begin, int64_t end, int) {
    for (int64_t side = 0; side < 2; side++)
      mix({table + 2 + side * S, weights, S, G, D, M * G * D, false}, table[side], begin, end);
  });
}

/**
 * limeRouteGrad: router, table, sides, M, S, G, D; the table has a gradient for each side, the S sources of
 * each, and twice the places of the gradients of the router and of each source: where to write them, then
 * where to add them. One of the two is null, or both where nobody wants it.
 */
static void route_grad(Pool& pool, const Args& args) {
  const float* router = args.ptr<const float>(0);
  float* const* table = args.ptr<float* const>(1);
  const int64_t sides = args.i64(2), M = args.i64(3), S = args.i64(4), G = args.i64(5), D = args.i64(6);
  const int64_t size = G * S * G, row = G * D, total = M * row;
  float* const* sources = table + sides;
  float* const* fresh = sources + sides * S;
  float* const* added = fresh + 1 + sides * S;
  float* dRouter = *fresh ? *fresh : *added;

  float* weights = static_cast<float*>(pool.shared(size * 4, 0));
  for (int64_t s = 0; s < S; s++) pack_weights(router + s * G, G, G, 1, S * G, weights + s * G * G);
  const int64_t span = M < 4096 ? 64 : ceil_div(M, 64), spans = ceil_div(M, span);
  const int64_t block = row > 0 && row < kBlock / 4 ? kBlock / row : 4;
  float* partial = dRouter ? static_cast<float*>(pool.shared(spans * size * 4, 1)) : nullptr;

  pool.parallelFor(spans, 1, [=](int64_t from, int64_t to, int) {
    for (int64_t t = from; t < to; t++) {
      float* sums = partial + t * size;
      if (partial) memset(sums, 0, static_cast<size_t>(size) * 4);
      const int64_t last = min_of((t + 1) * span, M);
      for (int64_t begin = t * span; begin < last; begin += block) {
        const int64_t end = min_of(begin + block, last);
        for (int64_t i = 0; i < sides * S; i++) {
          const int64_t s = i % S;
          float* const* g = table + i / S;
          const Dots pair = {*g, sources[i], G, D, total, begin, end};
          if (partial && D % VL == 0) dots<false>(pair, sums + s * G, S * G);
          else if (partial) dots<true>(pair, sums + s * G, S * G);
          float* out = fresh[1 + i] ? fresh[1 + i] : added[1 + i];
          if (out) mix({g, weights + s * G * G, 1, G, D, total, out == added[1 + i]}, out, begin, end);
        }
      }
    }
  });
  if (*fresh) memset(dRouter, 0, static_cast<size_t>(size) * 4);
  for (int64_t t = 0; partial && t < spans; t++)
    for (int64_t i = 0; i < size; i++) dRouter[i] += partial[t * size + i];
}

static void register_lime(Registry& r) {
  r.add("limeRoute", route);
  r.add("limeRouteGrad", route_grad);
}

}  // namespace lime

using lime::register_lime;
