// Parameters of conv2d's kernels.
#pragma once
#include "ops.h"
#include "product.cuh"

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
  ProductSize size;  // K, 9·C, pixels of y
  float* partial;    // (ranges of pixels, K, 9·C)
  View dy, x;
  Conv2d attributes;
};

// Between few channels and many (conv2d_few.cu), 3x3, stride 1, padding 1. One of the two tensors is the output, which has the other's sides.
constexpr int kFewMost = 4;
constexpr unsigned kFewShared = 48 << 10;  // for the weights
constexpr size_t few_bytes(int few, int many) { return size_t(9) * few * many * sizeof(float); }
struct ConvFew {
  View few, many, w, b;
  int turned;      // taps turned round: an input's gradient
  int w_by_many;   // the weights' rows belong to the many channels, not to the few
  int accumulate;  // to the output
  int range;       // pixels of a block
};
struct ConvFewWeights {
  View few, many;
  int turned;  // the few are dy: many(p) meets few(p) at taps turned round
  int range;   // pixels of a block
  float* partial;
};

}  // namespace phx
