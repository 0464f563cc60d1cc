// Copies and fills within device memory.
#pragma once
#include "kernels/cuda/cuda.cuh"

namespace phx {

struct Copy {
  float* to;
  const float* from;
  size_t count;
};
struct Fill {
  float* to;
  float value;
  size_t count;
};

}  // namespace phx
