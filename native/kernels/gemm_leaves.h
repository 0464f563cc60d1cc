// The inner loops of the matrix product (gemm.simd.cpp), for gemm.cpp and the ops built on its tiles.
#pragma once
#include <cstddef>

#include "simd.h"

namespace phx {

struct GemmLeaves {
  int mr, nr;  // rows and columns of a register tile
  // out[p][nr] = b (k,n) of strides rs and cs, n <= nr, columns from n on zero: one packed panel of B
  void (*pack)(int k, int n, const float* b, ptrdiff_t rs, ptrdiff_t cs, float* out);
  // c (m,n), n <= nr: c = a·panel, or c += a·panel
  void (*panel)(int m, int n, int k, const float* a, ptrdiff_t rs, ptrdiff_t cs, const float* panel, float* c, ptrdiff_t ldc,
                bool accumulate);
  // out[c] = Σ over the rows of x (rows,c), in order
  void (*sum_rows)(int rows, int c, const float* x, ptrdiff_t ld, float* out);
};
PHOENIX_DECLARE_SIMD(GemmLeaves, gemm_leaves)

}  // namespace phx
