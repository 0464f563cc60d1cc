// Parameters of linear's kernels.
#pragma once
#include "kernels/cuda/gemm/product.cuh"

namespace phx {

struct LinearForward {
  ProductSize size;
  View y, x0, x1, residual, w, b;
};
struct LinearInputGradient {
  ProductSize size;
  GradView dx0, dx1;
  View dy, w;
  int split;  // columns of x0
};
struct LinearWeightGradient {
  ProductSize size;  // K, C, rows; C + 1 with biases
  GradientParts parts;
  View dy, x0, x1;
};

}  // namespace phx
