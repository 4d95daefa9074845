// linearTopK: the k largest of x wT + bias in each row, by the passes of topk_run.inl.

struct LinearTopK {
  using List = TopList;
  using Pick = uint64_t;
  const float* x;     // [rows, width]
  const float* w;     // [features, width]
  const float* bias;  // [features] or null
  float* values;      // [rows, k]
  int32_t* indices;   // [rows, k]
  int64_t rows, features, width, k;
  bool relu;  // only positive values count
  int64_t capacity;

  int64_t columns() const { return features; }
  int64_t tile() const { return TOPK_TILE; }
  int64_t natural() const { return features; }
  int64_t stretch() const { return 8192; }
  int64_t workFloats() const { return 0; }
  float threshold() const { return relu ? 0.0f : -INFINITY; }

  void pack(Pool& pool, int64_t j, int64_t n, float* packed) const {
    Gemm g = {};
    g.b = w, g.bdtype = F32, g.brs = 1, g.bcs = width, g.n = features, g.k = width;
    pack_b(pool, g, 0, 1, j, n, packed);
  }
  void scan(TopList& list, const float* c, int64_t j, int64_t cols, const TopWork<LinearTopK>& work) const;
  void scanNatural(TopList& list, const float* c, int64_t j, int64_t cols, const TopWork<LinearTopK>& work) const {
    scan(list, c, j, cols, work);
  }
  void collect(const TopList& list, const TopWork<LinearTopK>& work) const {
    make_keys(list.values, list.indices, list.count, work.picks);
  }
  void write(uint64_t* keys, int64_t n, int64_t row) const {
    // What never entered a list is at most 0 after relu, and -inf otherwise.
    write_best(keys, n, k, threshold(), values + row * k, indices + row * k);
  }
};

/** The lanes of the mask go to the end of the list; a whole vector is written. */
static SLUICE_INLINE void topk_append(TopList& list, vf x, vi indices, vi mask) {
  const uint32_t bits = vmovemask(mask);
  vcompress(list.values + list.count, list.indices + list.count, x, indices, bits);
  list.count += __builtin_popcount(bits);
}

/** Offers the `cols` products at c, features j ..., to the list. */
void LinearTopK::scan(TopList& list, const float* c, int64_t j, int64_t cols, const TopWork<LinearTopK>& work) const {
  vf threshold = vset(list.threshold);
  const float* bias = this->bias ? this->bias + j : nullptr;
  const vi lanes = vlanes();
  int64_t i = 0;
  for (; i + 4 * VL <= cols; i += 4 * VL) {
    vf x[4];
    vi above = vi{};
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) {
      x[u] = vload(c + i + u * VL);
      if (bias) x[u] = x[u] + vload(bias + i + u * VL);
      above |= ~(x[u] <= threshold);
    }
    if (!vany(above)) continue;
    if (list.count + 4 * VL > capacity) {
      topk_cut(list, k, work.keys);
      threshold = vset(list.threshold);
    }
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) topk_append(list, x[u], lanes + static_cast<int32_t>(j + i + u * VL), ~(x[u] <= threshold));
  }
  for (; i < cols; i += VL) {
    const int64_t left = cols - i < VL ? cols - i : VL;
    vf x = vloadn(c + i, left);
    if (bias) x = x + vloadn(bias + i, left);
    vi mask = ~(x <= threshold) & (lanes < static_cast<int32_t>(left));
    if (!vany(mask)) continue;
    if (list.count + VL > capacity) {
      topk_cut(list, k, work.keys);
      threshold = vset(list.threshold);
      mask = mask & ~(x <= threshold);
    }
    topk_append(list, x, lanes + static_cast<int32_t>(j + i), mask);
  }
}

/** linearTopK: x, w, bias (or 0), values, indices, rows, features, width, k, relu (0: raw values, 1: relu'd). */
static void kernel_linear_topk(Pool& pool, const Args& args) {
  LinearTopK s;
  s.x = args.ptr<float>(0), s.w = args.ptr<float>(1), s.bias = args.ptr<float>(2);
  s.values = args.ptr<float>(3), s.indices = args.ptr<int32_t>(4);
  s.rows = args.i64(5), s.features = args.i64(6), s.width = args.i64(7), s.k = args.i64(8);
  s.relu = args.i64(9) != 0;
  s.capacity = topk_capacity(s.k);
  if (s.rows <= 0) return;
  // Few rows: packing w would cost more than the product.
  if (topk_few_rows(s)) topk_stretches(pool, s);
  else topk_tiles(pool, s);
}

static void register_linear_topk(Registry& r) { r.add("linearTopK", kernel_linear_topk); }
