/** Aligned memory; large blocks ask for huge pages, which spares the GEMM's TLB. */
#include "memory.h"

#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace sluice {

void* allocate(int64_t bytes) {
  constexpr int64_t kHuge = int64_t(2) << 20;
  int64_t align = bytes >= kHuge ? kHuge : 64;
  // One vector beyond the end, so that a kernel may load past the last element.
  int64_t size = (bytes + 127) / 64 * 64;
  void* p = nullptr;
  if (posix_memalign(&p, static_cast<size_t>(align), static_cast<size_t>(size)) != 0) return nullptr;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (align == kHuge) madvise(p, static_cast<size_t>(size), MADV_HUGEPAGE);
#endif
  return p;
}

void release(void* p) { free(p); }

}  // namespace sluice
