// The transforms of Winograd's convolutions (winograd.simd.cpp). Values of a tile's frequencies lie `stride` floats apart, row by row.
// A pixel is a pointer to its channels; a null output pixel is outside the map and is left out.
#pragma once
#include <cstddef>

#include "kernels/isa.h"

namespace phx {

// Along a line a tile makes `outputs` pixels out of `window`, through products m[i] = v[v_of[i]]·u[u_of[i]] of frequencies of pixels and of
// the filter. In two dimensions all these numbers are squared, and a product's two frequencies are those of its row and of its column.
struct WinogradTransforms {
  int window, outputs, v_side, u_side, m_side;
  const int *v_of, *u_of;
  // v of window x window pixels of c channels; channel i at (i / nr)·panel + i % nr, nr as in GemmMicrokernels
  void (*input)(int c, const float* const* pixels, float* v, ptrdiff_t stride, ptrdiff_t panel);
  // y, outputs x outputs pixels of k channels, = that of m + bias + temb + residual; bias, temb, residual may be null
  void (*output)(int k, const float* m, ptrdiff_t stride, const float* bias, const float* temb, const float* const* residual,
                 float* const* y);
  // u of `count` rows of nr values: tap t of row i at taps + t·tap_stride + i·nr
  void (*filter)(int count, const float* taps, ptrdiff_t tap_stride, float* u, ptrdiff_t stride);
  // The transposes of the last two, without bias, temb and residual, for the weight gradient; null where there is none.
  // m of dy's outputs x outputs pixels
  void (*gradient)(int k, const float* const* pixels, float* m, ptrdiff_t stride) = nullptr;
  // dw of du, c channels
  void (*filter_gradient)(int c, const float* du, ptrdiff_t stride, float* dw, ptrdiff_t tap_stride) = nullptr;
};
struct WinogradMicrokernels {
  // 4x4 outputs of 6x6 pixels
  WinogradTransforms plain;
  // 4x4 outputs of the 4x4 pixels that, enlarged twofold, are around them
  WinogradTransforms upsampled;
  // The data gradient of that: 2x2 pixels of the small map out of 6x6 of dy, by mirrored filters
  WinogradTransforms upsampled_gradient;
};
PHOENIX_DECLARE_SIMD(WinogradMicrokernels, winograd_microkernels)

}  // namespace phx
