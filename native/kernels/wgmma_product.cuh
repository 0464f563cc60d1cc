// Parameters of the products on Hopper's tensor cores (wgmma_product.cu): convolutions and linear layers in bf16.
#pragma once
#include <cuda_bf16.h>

#include "launch.cuda.h"

namespace phx {

constexpr int kWgmmaRows = 128;         // of a tile: pixels, or output channels in the weights' gradient
constexpr int kWgmmaDepth = 64;         // channels (or pixels) of a step: a row of 128 bytes
constexpr int kWgmmaThreads = 3 * 128;  // a warpgroup that copies and two that multiply
// Shared memory: stages of A (rows x depth) and B (columns x depth), then the results' tile in bf16, then barriers.
constexpr int wgmma_stages(int columns, bool staged_results) { return columns == 256 ? (staged_results ? 3 : 4) : 4; }
constexpr int wgmma_shared_bytes(int columns, bool staged_results) {
  return wgmma_stages(columns, staged_results) * (kWgmmaRows + columns) * kWgmmaDepth * 2 +
         (staged_results ? kWgmmaRows * columns * 2 : 0) + 256;
}

// Pixels that one copy takes: images x rows x columns, the pixels of a tile.
struct PixelBox {
  int n, h, w;
};
// How tiles of pixels cover (N,H,W): tile t starts at pixel (t / tiles_w / tiles_h * box.n, t / tiles_w % tiles_h * box.h, t % tiles_w * box.w).
struct PixelTiles {
  PixelBox box;
  int tiles_w, tiles_h, count;
};
// A tap: where it reads, relative to the pixel that it belongs to, and its place in the weights.
struct Tap {
  signed char h, w;
  unsigned char index;
};
constexpr int kMostTaps = 16;  // of the gradients of folded weights (conv2d.cuh)

// out(p,j) = Σ_tap Σ_c in(p·stride + tap, c)·weights(j, tap, c) + bias(j) + temb(image, j) + residual(p,j), out rounded to bf16.
struct WgmmaForward {
  TensorMap in0, in1;       // (N,H,W,C), channels of in1 after those of in0
  TensorMap weights;        // (J, taps, C); in the inputs' gradient (C, taps, J)
  TensorMap out, residual;  // (N·H, phases, W, phases, J), see OutputPixels in wgmma_product.cu
  const float* bias;        // null: none, as for temb
  const __nv_bfloat16* temb;
  int temb_ld, has_residual;
  PixelTiles pixels;  // of out
  int columns, column_tiles, rows_per_image, images, phase_h, phase_w;
  int steps0, steps1, channels0;  // steps over the channels of in0 and in1; where in1's weights begin
  int stride, taps;
  Tap tap[kMostTaps];
};
// partial(range, k, tap, c) = Σ_{p in range} dy(p,k)·x(p·stride + tap, c), fp32. With upsample 2, of the folded weights: p runs over the pixels of x, and
// dy is dy(2p + phase), the phase being that of the tap's sum.
struct WgmmaWeightGradient {
  TensorMap dy, x;
  float* partial;
  PixelTiles pixels;  // of a phase of dy, boxes of kWgmmaDepth pixels
  int steps, steps_per_range, ranges;
  int rows, row_tiles, columns, column_tiles;
  int row_length, first_column;  // of partial: taps·C in all; where x's channels begin in a tap
  int tap_stride;                // columns from one tap to the next
  int stride, upsample, taps;
  Tap tap[kMostTaps];
};

}  // namespace phx
