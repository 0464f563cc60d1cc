// Parameters of conv2d's kernels.
#pragma once
#include "kernels/cuda/gemm/product.cuh"
#include "kernels/ops.h"

namespace phx {

struct ConvForward {
  ProductSize size;  // pixels of y, K, 9·C
  View y, x, temb, residual, w, b;
  Conv2d attributes;
};
struct ConvInputGradient {
  ProductSize size;  // pixels of x, C, upsample²·9·K
  GradView dx;
  View dy, w;
  Conv2d attributes;
};
struct ConvWeightGradient {
  ProductSize size;  // K, 9·C + 1, pixels of y
  GradientParts parts;
  View dy, x;
  Conv2d attributes;
};

// Upsampling by two, folded into the weights. Per side, an output pixel reads two input pixels, and an input pixel is read by four output
// pixels, each through a sum of taps:
//
//   sum p   taps    outputs of phase   read the pixel at offset   the output's offset from twice the input's place
//   0       0       0                  -1                          2
//   1       1, 2    0                   0                          0
//   2       0, 1    1                   0                          1
//   3       2       1                   1                         -1
constexpr int kFolded = 4;  // sums per side
// The offset of the pixel that sum p reads, from the output's own place.
constexpr int folded_pixel(int p) { return p / 2 - 1 + p % 2; }
// The sum through which the output at offset i - 1 from twice an input's place reads that input.
constexpr int folded_reader(int i) { return i == 0 ? 3 : i == 3 ? 0 : i; }
struct ConvFold {
  View w, folded;  // (K,3,3,C) and (K,4,4,C)
};
struct ConvUnfold {
  int ranges;
  const float* parts;  // (ranges, K, 4, 4, C), gradients of the folded weights
  View dw;             // (K,3,3,C), fp32: the sum over ranges and over the sums that a tap is in
};

// Between a tensor of few channels, the narrow one, and one of many, the wide one (conv2d_narrow.cu): 3x3, stride 1, padding 1. One of the
// two tensors is the output, which has the other's sides.
constexpr int kNarrowMax = 4;
constexpr unsigned kNarrowShared = 48 << 10;
constexpr int kNarrowRange = 256;  // pixels of a block
// Shared memory: a block's pixels with those around them, kNarrowMax channels each, and the weights, or in their gradient eight sums a
// thread.
constexpr size_t narrow_tile_bytes(int w) { return (kNarrowRange + 2 * (size_t(w) + 1)) * kNarrowMax * sizeof(float); }
constexpr size_t narrow_bytes(int narrow, int wide, int w) {
  size_t weights = size_t(9) * narrow * wide * sizeof(float), sums = 256 * 8 * sizeof(float);
  return narrow_tile_bytes(w) + (weights > sums ? weights : sums);
}
struct ConvNarrow {
  View narrow, wide, w, b;
  int turned;      // taps turned round: an input's gradient
  int w_by_wide;   // the weights' rows belong to the wide tensor's channels
  int accumulate;  // to the output
};
struct ConvNarrowWeights {
  View narrow, wide;
  int turned;  // the narrow tensor is dy: wide(p) meets narrow(p) at taps turned round
  GradientParts parts;
};

}  // namespace phx
