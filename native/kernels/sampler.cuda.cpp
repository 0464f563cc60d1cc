// Launcher of the sampler's step.
#include "sampler.cuh"

#include "check.h"
#include "launch.cuda.h"
#include "ops.h"

namespace phx {

static const Kernel<SamplerUpdate> sampler_step_kernel("sampler_step_kernel");

void sampler_step(Context&, Tensor x, Tensor x0_prev, Tensor m, const SamplerStep* step) {
  check_shape("sampler_step", "x0_prev", x0_prev, x.n, x.h, x.w, x.c);
  check_shape("sampler_step", "m", m, x.n, x.h, x.w, x.c);
  sampler_step_kernel(cover(x.size()), kElementThreads, {view(x), view(x0_prev), view(m), step});
}

}  // namespace phx
