// Parameters of the products on Ampere's tensor cores (mma_product.cu): convolutions and linear layers over bf16 tensors whose channels are
// multiples of 8. They are plain matrix products whose operands are gathered while they are loaded.
#pragma once
#include "kernels/cuda/gemm/product.cuh"

namespace phx {

constexpr int kMmaDepth = 32, kMmaStages = 4;  // k of a step, and steps that are in shared memory at once
// Square tiles of results, by four warps or eight.
constexpr int mma_threads(int tile) { return tile == 128 ? 256 : 128; }
constexpr unsigned mma_shared_bytes(int tile) { return kMmaStages * 2 * tile * kMmaDepth * sizeof(BFloat16); }

// An input and the weights that it is multiplied by.
struct MmaOperands {
  View in;
  const BFloat16* weights;
  int weights_row;  // values from one out-channel to the next (one in-channel to the next, when read across)
};
// One of the neighbours that are summed over: its place relative to the row's pixel, its operands, and where its weights begin in a row of
// them.
struct MmaTap {
  short h, w;
  int operands, weights;
};
constexpr int kMmaTaps = 16;  // of folded weights (conv2d.cuh)

// out(row, j) = Σ_tap Σ_c in(pixel(row)·step + tap, c) · weights(tap, c, j) + b(j) + shortcut_b(j) + temb(image, j) + residual(row, j)
// In the inputs' gradient, `in` is dy and out is dx: weights are read across. With stride 2 each of the four phases of dx's pixels, a z of
// the grid, has taps of its own, and so have those of y where x is enlarged.
struct MmaProduct {
  int rows, columns;        // of one phase; of out
  int h, w;                 // pixels of an image that are rows of a phase
  int phases;               // 1 or 2: out's pixel is phases·pixel(row) + phase
  MmaOperands operands[3];  // a convolution's, and a shortcut's two; or a linear layer's two
  int step;
  int first_tap[5];  // of each phase, and the end
  MmaTap tap[kMmaTaps];
  View b, shortcut_b, temb, residual;
  GradView out[2];  // columns from `split` on belong to the second
  int split;
};

// Parts: Σ over a range of pixels of dy(pixel, row) · x(pixel·step + tap, c), columns (tap, c).
struct MmaWeightGradient {
  int rows, columns, pixels, range;  // range: a multiple of kMmaDepth
  int h, w;                          // of dy
  View dy, in[2];
  int step, enlarged, pad;  // in is read as if enlarged to 2^enlarged times its side
  int taps;                 // 9; or 1: columns are the channels of both inputs
  GradientParts parts;
};

}  // namespace phx
