// Parameters of the padding kernels.
#pragma once
#include "kernels/cuda/cuda.cuh"

namespace phx {

struct PadForward {
  View y, x;
};
struct PadBackward {
  GradView dx;
  View dy;
};

}  // namespace phx
