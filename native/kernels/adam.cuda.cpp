// Launcher of the optimizer's step.
#include "adam.cuh"

#include <cmath>

#include "check.h"
#include "launch.cuda.h"
#include "ops.h"

namespace phx {

static const Kernel<AdamUpdate> adam_step_kernel("adam_step_kernel");

void adam_step(Context&, real* p, real* m, real* v, real* ema, Tensor rounded, const real* g, size_t count, Adam a) {
  check(!rounded || (rounded.type == Type::bf16 && rounded.size() == count), "adam_step", "as many values in bf16 as parameters");
  double correction1 = 1 - std::pow(a.beta1, double(a.step)), correction2 = 1 - std::pow(a.beta2, double(a.step));
  adam_step_kernel(
      cover(count), kElementThreads,
      {p, m, v, ema, reinterpret_cast<uint16_t*>(rounded.data), g, count, real(1 - a.beta1), real(1 - a.beta2), real(a.grad_scale),
       real(a.lr / correction1), real(1 / std::sqrt(correction2)), real(a.eps), real(a.lr * a.weight_decay), real(1 - a.ema_decay)});
}

}  // namespace phx
