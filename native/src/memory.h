/** Aligned memory for tensors and scratch. */
#pragma once
#include <stdint.h>

namespace sluice {

/** 64-byte aligned (2 MiB aligned and marked for huge pages from 2 MiB on); null when there is no memory. */
void* allocate(int64_t bytes);
void release(void* p);

}  // namespace sluice
