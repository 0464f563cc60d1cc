// Parameters of group_norm's kernels.
#pragma once
#include "cuda.cuh"
#include "ops.h"

namespace phx {

// DropoutRule as kernels see it.
struct DropoutWords {
  const Draw* draw;
  uint32_t layer, threshold;
  float factor;
};
struct GroupNormForward {
  View y, mean, rstd, x0, x1, w, b;
  int groups, silu;
  float eps;
  DropoutWords dropout;
};
struct GroupNormBackward {
  GradView dx0, dx1;
  View dw, db;  // (N,C) each: an image's share
  View dy, mean, rstd, x0, x1, w, b;
  int groups, silu;
  DropoutWords dropout;
};

}  // namespace phx
