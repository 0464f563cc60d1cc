// The rows of attention's scores (attention.simd.cpp). A row holds `t` scores in a stride that is a multiple of 16, so that whole vectors
// may be read and written; what lies past `t` is overwritten.
#pragma once
#include <cstddef>

#include "kernels/isa.h"

namespace phx {

struct AttentionMicrokernels {
  // Row by row s = exp(scale·(s - the largest s)), share[i] = 1 / Σ of these, lse[i] = log Σ exp(scale·s): softmax is share·s
  void (*exponentials)(int rows, int t, float scale, float* s, ptrdiff_t ld, float* lse, float* share);
  // x = factor[i]·x, row by row of n values
  void (*scale_rows)(int rows, int n, const float* factor, float* x, ptrdiff_t ld);
  // s = exp(scale·s - lse[i])
  void (*probabilities)(int rows, int t, float scale, float* s, ptrdiff_t ld, const float* lse);
  // dp = scale·p·(dp - mean[i])
  void (*score_gradient)(int rows, int t, float scale, const float* p, float* dp, ptrdiff_t ld, const float* mean);
  // a·b of `count` values
  float (*dot)(int count, const float* a, const float* b);
};
PHOENIX_DECLARE_SIMD(AttentionMicrokernels, attention_microkernels)

}  // namespace phx
