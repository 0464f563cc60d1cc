// Parameters of the sampler's kernel.
#pragma once
#include "kernels/cuda/cuda.cuh"
#include "kernels/ops.h"

namespace phx {

struct SamplerUpdate {
  View x, x0_prev, m;
  const SamplerStep* step;
};

}  // namespace phx
