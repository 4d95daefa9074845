/** The kernels for the baseline of the architecture (SSE2 on x64, NEON on arm64): vectors of 4 floats. */
#define SLUICE_NS generic
#define SLUICE_VL 4
#include "families.inl"
