// The inner loops of group_norm, over one strip of pixels of one image. Arrays of one value per channel (mean, scale, …) are padded to a
// multiple of 16 with finite values and may be read to that length; activations are read and written exactly.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/isa.h"

namespace phx {

// Dropout of a strip (dropout.h): channel c of pixel p is element first + p·row + c of the op's output; threshold 0 switches it off.
struct StripDropout {
  uint64_t key;
  uint32_t layer, step, threshold;
  float factor;
  size_t first, row;
};

struct NormMicrokernels {
  // sum[c] = Σ (x - x̄), square[c] = Σ (x - x̄)², x̄ = the strip's first pixel: sums that stay small lose nothing to rounding.
  void (*sums)(float* sum, float* square, const float* x, ptrdiff_t ldx, int pixels, int channels);

  // y = dropout(silu((x - mean)·scale + bias))
  void (*apply)(float* y, ptrdiff_t ldy, const float* x, ptrdiff_t ldx, int pixels, int channels, const float* mean, const float* scale,
                const float* bias, bool silu, const StripDropout&);

  // dz = dy·dropout·silu'(z), z = x̂·w + b, x̂ = (x - mean)·rstd; sum[c] = Σ dz, product[c] = Σ dz·x̂. dz may be null.
  void (*backward_sums)(float* dz, ptrdiff_t lddz, float* sum, float* product, const float* dy, ptrdiff_t lddy, const float* x,
                        ptrdiff_t ldx, int pixels, int channels, const float* mean, const float* rstd, const float* w, const float* b,
                        bool silu, const StripDropout&);

  // dx = (dx) + scale·dz - offset - (x - mean)·slope; dz may be dx itself.
  void (*backward_apply)(float* dx, ptrdiff_t lddx, const float* dz, ptrdiff_t lddz, const float* x, ptrdiff_t ldx, int pixels,
                         int channels, const float* mean, const float* scale, const float* offset, const float* slope, bool accumulate);
};
PHOENIX_DECLARE_SIMD(NormMicrokernels, norm_microkernels)

}  // namespace phx
