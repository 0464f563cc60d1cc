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

}  // namespace phx
