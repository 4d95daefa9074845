/**
 * All kernel families, compiled once per ISA: the including file defines SLUICE_NS (its namespace) and SLUICE_VL
 * (floats per vector). Family files hold only static functions, define `static void register_<family>(Registry&)`
 * and are included inside the namespace: they neither open SLUICE_NS nor include anything.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "pool.h"
#include "registry.h"
#include "select.h"

namespace sluice {
namespace SLUICE_NS {

#include "simd.h"
#include "gemm_micro.inl"
#include "gemm_small.inl"
#include "gemm.inl"
#include "topk_run.inl"
#include "linear_topk.inl"
#include "elementwise.inl"
#include "shape.inl"
#include "sparse.inl"
#include "prefix.inl"
#include "kron.inl"
#include "lime.inl"
#include "optim.inl"
#include "lm.inl"
#include "attention.inl"

/** The smallest kernel: adds args[1] to the i32 at args[0]; tests of the call path use it. */
static void kernel_ping(Pool&, const Args& args) { *args.ptr<int32_t>(0) += static_cast<int32_t>(args.i64(1)); }

void register_all(Registry& r) {
  r.add("ping", kernel_ping);
  register_gemm(r);
  register_linear_topk(r);
  register_elementwise(r);
  register_shape(r);
  register_sparse(r);
  register_prefix(r);
  register_kron(r);
  register_lime(r);
  register_optim(r);
  register_lm(r);
  register_attention(r);
}

}  // namespace SLUICE_NS
}  // namespace sluice
