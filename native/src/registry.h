/**
 * Kernels by name, and the argument block they read. JavaScript writes numbers and addresses into one Float64Array
 * and calls a kernel by its id; an address is a double below 2^53.
 */
#pragma once
#include <stdint.h>

// Always inlined: a shared copy compiled for one ISA must not be linked into another.
#define SLUICE_INLINE inline __attribute__((always_inline))

namespace sluice {

class Pool;

struct Args {
  const double* a;
  template <class T>
  SLUICE_INLINE T* ptr(int i) const {
    return reinterpret_cast<T*>(static_cast<uintptr_t>(a[i]));
  }
  SLUICE_INLINE int64_t i64(int i) const { return static_cast<int64_t>(a[i]); }
  SLUICE_INLINE float f32(int i) const { return static_cast<float>(a[i]); }
  SLUICE_INLINE double f64(int i) const { return a[i]; }
};

using KernelFn = void (*)(Pool&, const Args&);

/** Storage types, as coded in the argument block. */
enum DType : int { F32 = 0, F16 = 1, BF16 = 2, I32 = 3 };

class Registry {
 public:
  void add(const char* name, KernelFn fn);

  static constexpr int kCapacity = 512;
  const char* names[kCapacity];
  KernelFn fns[kCapacity];
  int count = 0;
};

}  // namespace sluice
