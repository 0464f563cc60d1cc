// Parameters of group_norm's kernels.
#pragma once
#include "cuda.cuh"

namespace phx {

// DropoutRule as kernels see it.
struct DropoutWords {
  uint64_t key;
  uint32_t layer, step, threshold;
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
