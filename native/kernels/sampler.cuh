// Parameters of the sampler's kernel.
#pragma once
#include "cuda.cuh"
#include "ops.h"

namespace phx {

struct SamplerUpdate {
  View x, x0_prev, m;
  const SamplerStep* step;
};

}  // namespace phx
