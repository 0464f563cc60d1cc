// Launcher of the optimizer's step.
#include "adam.cuh"

#include "check.h"
#include "launch.cuda.h"
#include "ops.h"

namespace phx {

static const Kernel<AdamPrepare> adam_prepare_kernel("adam_prepare_kernel");
static const Kernel<AdamUpdate> adam_step_kernel("adam_step_kernel");

void adam_step(Context& ctx, real* p, real* m, real* v, real* ema, Tensor rounded, const real* g, size_t count, const Adam* step) {
  check(!rounded || (rounded.type == Type::bf16 && rounded.size() == count), "adam_step", "as many values in bf16 as parameters");
  auto* constants = reinterpret_cast<AdamConstants*>(ctx.scratch(sizeof(AdamConstants) / sizeof(real) + 1));
  adam_prepare_kernel({}, 32, {constants, step});
  adam_step_kernel(cover(count), kElementThreads, {p, m, v, ema, reinterpret_cast<uint16_t*>(rounded.data), g, count, constants});
}

}  // namespace phx
