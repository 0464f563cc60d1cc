// Parameters of group_norm's kernels.
#pragma once
#include "kernels/cuda/cuda.cuh"
#include "kernels/ops.h"

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

// The same for kernels that hold slabs of `width` channels, whole groups and a multiple of 8, in shared memory.
struct GroupNormSlabForward {
  GroupNormForward all;
  int width;
};
struct GroupNormSlabBackward {
  GroupNormBackward all;
  int width;
};
// Shared memory of a slab: its values in bf16, then the sums over threads.
constexpr size_t slab_bytes(int pixels, int width) {
  return size_t(pixels) * width * sizeof(BFloat16) + (256 * 8 + 12 * size_t(width)) * sizeof(float);
}

#ifdef __CUDACC__
// The random words of the element at row-major index e and its neighbours in eight: ops.h, Dropout.
__device__ inline Words dropout_words(const DropoutWords& d, size_t e) {
  return philox(d.draw->key, uint32_t(e / 8), d.layer, d.draw->step, Purpose::dropout);
}
#endif

}  // namespace phx
