/** The kernels for avx2: vectors of 8 floats. */
#define SLUICE_NS avx2
#define SLUICE_VL 8
#include "families.inl"
