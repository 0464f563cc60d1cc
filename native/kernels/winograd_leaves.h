// The transforms of Winograd's convolution (winograd.simd.cpp). Values of a tile's 36 frequencies lie `stride` floats apart.
// A pixel is a pointer to its channels; a null output pixel is outside the map and is left out.
#pragma once
#include <cstddef>

#include "simd.h"

namespace phx {

struct WinogradLeaves {
  // v = Bᵀ d B of 6x6 pixels of c channels; channel i at (i / nr)·panel + i % nr, nr as in GemmLeaves
  void (*input)(int c, const float* const* pixels, float* v, ptrdiff_t stride, ptrdiff_t panel);
  // y = Aᵀ m A + bias + temb + residual, 4x4 pixels of k channels; bias, temb, residual may be null
  void (*output)(int k, const float* m, ptrdiff_t stride, const float* bias, const float* temb, const float* const* residual,
                 float* const* y);
  // y = the sums of 2x2 pixels of Aᵀ m A + residual, 2x2 pixels
  void (*pooled_output)(int k, const float* m, ptrdiff_t stride, const float* const* residual, float* const* y);
  // m = A dy Aᵀ of 4x4 pixels
  void (*gradient)(int k, const float* const* pixels, float* m, ptrdiff_t stride);
  // u = G g Gᵀ for `count` rows of nr values: tap t of row i at taps + t·tap_stride + i·nr
  void (*filter)(int count, const float* taps, ptrdiff_t tap_stride, float* u, ptrdiff_t stride);
  // dw = Gᵀ du G for c channels
  void (*filter_gradient)(int c, const float* du, ptrdiff_t stride, float* dw, ptrdiff_t tap_stride);
};
PHOENIX_DECLARE_SIMD(WinogradLeaves, winograd_leaves)

}  // namespace phx
