// Launcher of the sampler's step.
#include "kernels/cuda/sampler.cuh"

#include "kernels/cuda/runtime/launch.h"
#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {

static const Kernel<SamplerUpdate> sampler_step_kernel("sampler_step_kernel");

void sampler_step(Context&, Tensor x, Tensor x0_prev, Tensor m, const SamplerStep* step) {
  shapes::sampler_step(x, x0_prev, m);
  sampler_step_kernel(cover(x.size()), kElementThreads, {view(x), view(x0_prev), view(m), step});
}

}  // namespace phx
