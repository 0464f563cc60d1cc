// Parameters of the SiLU kernels.
#pragma once
#include "kernels/cuda/cuda.cuh"

namespace phx {

struct SiluForward {
  View y, x;
};
struct SiluBackward {
  GradView dx;
  View dy, x;
};

}  // namespace phx
