// Parameters of the loss's kernels.
#pragma once
#include "kernels/cuda/cuda.cuh"

namespace phx {

struct MseForward {
  View loss, y, target, weight;
};
struct MseBackward {
  View dy, y, target, weight;
};

}  // namespace phx
