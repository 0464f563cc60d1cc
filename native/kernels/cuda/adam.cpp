// Launcher of the optimizer's step.
#include "kernels/cuda/adam.cuh"

#include "kernels/cuda/runtime/launch.h"
#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {

static const Kernel<AdamPrepare> adam_prepare_kernel("adam_prepare_kernel");
static const Kernel<AdamUpdate> adam_step_kernel("adam_step_kernel");

void adam_step(Context& ctx, real* p, real* m, real* v, real* ema, Tensor rounded, const real* g, size_t count, const Adam* step) {
  shapes::adam_step(rounded, count);
  auto* constants = reinterpret_cast<AdamConstants*>(ctx.scratch(sizeof(AdamConstants) / sizeof(real) + 1));
  adam_prepare_kernel({}, 32, {constants, step});
  adam_step_kernel(cover(count), kElementThreads, {p, m, v, ema, rounded.bf16(), g, count, constants});
}

}  // namespace phx
