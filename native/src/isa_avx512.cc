/** The kernels for avx512: vectors of 16 floats. */
#define SLUICE_NS avx512
#define SLUICE_VL 16
#include "families.inl"
