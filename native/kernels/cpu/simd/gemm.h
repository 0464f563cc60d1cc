// The inner loops of the matrix product (gemm.simd.cpp), for gemm.cpp and the ops built on its tiles.
#pragma once
#include <cstddef>

#include "kernels/divide.h"
#include "kernels/isa.h"

namespace phx {

// c (m,n) = row + matrix + a·b: a (m,k) of strides rs and cs, b a packed panel, n <= nr; row (n) and matrix (m,n), which may be c, may be
// null.
struct GemmPanel {
  int m, n, k;
  const float* a;
  ptrdiff_t rs, cs;
  const float* b;
  float* c;
  ptrdiff_t ldc;
  const float* row = nullptr;
  const float* matrix = nullptr;
  ptrdiff_t ld = 0;
  bool cold = false;             // a and c come from memory: each tile fetches the next one's rows
  const float* ahead = nullptr;  // each tile fetches k cache lines into L2, tile after tile, from here on
};

// How many tiles of at most mr rows.
constexpr int gemm_tiles(int m, int mr) { return ceil_div(m, mr); }

struct GemmMicrokernels {
  int mr, nr;  // rows and columns of a register tile
  // out[p][nr] = b (k,n) of strides rs and cs, n <= nr, columns from n on zero: one packed panel of B
  void (*pack)(int k, int n, const float* b, ptrdiff_t rs, ptrdiff_t cs, float* out);
  void (*panel)(const GemmPanel&);
  // out[c] = Σ over the rows of x (rows,c), in order
  void (*sum_rows)(int rows, int c, const float* x, ptrdiff_t ld, float* out);
};
PHOENIX_DECLARE_SIMD(GemmMicrokernels, gemm_microkernels)

// The same with factors in bfloat16 (gemm_bf16.simd.cpp), two neighbours in k in the place of one float. For AVX-512 alone, and to be
// called only where bf16_products() (simd.h); null in the other sets.
struct Bf16Microkernels {
  // A panel of GemmMicrokernels::pack becomes one of (k + 1)/2 rows of pairs, in place.
  void (*round_panel)(int k, float* panel);
  // The same with the rows of a, columns side by side; row i's pairs lie at pairs + i·ld, ld at least k/2 rounded up to 16.
  void (*round_rows)(int m, int k, const float* a, ptrdiff_t rs, float* pairs, ptrdiff_t ld);
  // GemmMicrokernels::panel of pairs: k counts them, cs is 1, `cold` and `ahead` are ignored.
  void (*panel)(const GemmPanel&);
};
PHOENIX_DECLARE_SIMD(Bf16Microkernels, bf16_microkernels)

}  // namespace phx
