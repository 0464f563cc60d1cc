// Parameters of the products on Hopper's tensor cores (wgmma_product.cu, wgmma_halo.cu): convolutions and linear layers in bf16.
#pragma once
#include <cuda_bf16.h>

#include "kernels/cuda/gemm/product.cuh"
#include "kernels/cuda/runtime/launch.h"

namespace phx {

constexpr int kWgmmaRows = 128;         // of a tile: pixels, or output channels in the weights' gradient
constexpr int kWgmmaDepth = 64;         // channels (or pixels) of a step: a row of 128 bytes
constexpr int kWgmmaThreads = 3 * 128;  // a warpgroup that copies and two that multiply
// Shared memory: stages of A (rows x depth) and B (columns x depth), then the results' tile in bf16, barriers, and what each half's columns
// are given; in the weights' gradient barriers and ones.
constexpr int wgmma_stages(int columns, bool staged_results) {
  return staged_results ? (columns == 256 ? 3 : 4) : 200 * 1024 / ((kWgmmaRows + columns) * kWgmmaDepth * 2);
}
constexpr int wgmma_shared_bytes(int columns, bool staged_results) {
  return wgmma_stages(columns, staged_results) * (kWgmmaRows + columns) * kWgmmaDepth * 2 +
         (staged_results ? kWgmmaRows * columns * 2 + 2 * columns * 4 : 256) + 256;
}
// With a halo (wgmma_halo.cu): stages of pixels with those around them, at most 2 x 10 x 10 of 64 channels, stages of weights (columns x
// depth), the rest alike.
constexpr int kPatch = 8;  // a side of the pixels of half a tile
constexpr int kHaloStages = 2, kHaloBytes = 2 * 10 * 10 * kWgmmaDepth * 2;
constexpr int wgmma_halo_stages(int columns) { return columns == 256 ? 3 : 6; }
constexpr int wgmma_halo_shared_bytes(int columns) {
  return kHaloStages * kHaloBytes + wgmma_halo_stages(columns) * columns * kWgmmaDepth * 2 + kWgmmaRows * columns * 2 + 2 * columns * 4 +
         256;
}

// Pixels that one copy takes: images x rows x columns, the pixels of a tile.
struct PixelBox {
  int n, h, w;
};
// How tiles of pixels cover (N,H,W): tile t starts at pixel (t / tiles_w / tiles_h * box.n, t / tiles_w % tiles_h * box.h, t % tiles_w *
// box.w).
struct PixelTiles {
  PixelBox box;
  int tiles_w, tiles_h, count;
};
// A tap: where it reads, relative to the pixel that it belongs to, and its place in the weights.
struct Tap {
  signed char h, w;
  unsigned char index;
};
constexpr int kMaxTaps = 16;  // of the gradients of folded weights (conv2d.cuh)

// A tensor of results: channels [0, columns) of it, in so many tiles.
struct WgmmaOutput {
  TensorMap to, residual;  // (N·H, phases, W, phases, J), with a halo (N, H, W, 1, J): see result_place
  int columns, tiles, has_residual;
};
// What is multiplied: in steps over the channels of the first input, then over those of the second.
struct WgmmaOperands {
  TensorMap in[2];    // (N,H,W,C), channels of the second after those of the first
  TensorMap weights;  // (J, taps, C); in the inputs' gradient (C, taps, J)
  int steps, steps0;  // in all, and over the first input; no steps: nothing to multiply
  int channels0;      // of the first: where the second's weights begin
  const float* bias;  // (J), or null
};
// out(p,j) = Σ_tap Σ_c in(p·stride + tap, c)·weights(j, tap, c) + Σ_c shortcut.in(p, c)·shortcut.weights(j, c)
//            + both biases(j) + temb(image, j) + residual(p,j)
// out is rounded to bf16. Pixels of out that are `phases` apart per side make a phase with taps of its own, from first_tap[phase] on.
struct WgmmaForward {
  WgmmaOperands window, shortcut;
  WgmmaOutput out[2];         // the second, whose columns follow those of the first in `weights`: in the inputs' gradient of two inputs
  const __nv_bfloat16* temb;  // null: none
  int temb_ld;
  PixelTiles pixels;  // of a phase of out
  int rows_per_image, images;
  int stride, phases;
  int first_tap[5];
  Tap tap[kMaxTaps];
};
// Parts (range, k, tap, c): Σ_{p in range} dy(p,k)·x(p·stride + tap, c). With upsample 2, of the folded weights: p runs over the pixels of
// x, and dy is dy(2p + phase), the phase being that of the tap's sum; the biases' parts are then (range, phase, k).
struct WgmmaWeightGradient {
  TensorMap dy, x[2];  // channels of the second x after those of the first
  GradientParts parts;
  PixelTiles pixels;  // of a phase of dy, boxes of kWgmmaDepth pixels
  int steps, steps_per_range, ranges;
  int rows, row_tiles;
  int columns[2], blocks[2];           // channels of each x, and blocks of 64 of them
  int column_tiles;                    // of the blocks of a phase, those of a tap side by side
  int stride, upsample, phases, taps;  // taps of a phase
  int pair_rows;                       // of pairs: two tiles of rows, else two of columns
  Tap tap[kMaxTaps];                   // phase by phase
};

}  // namespace phx
