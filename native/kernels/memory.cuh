// Copies and fills within device memory.
#pragma once
#include "cuda.cuh"

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
