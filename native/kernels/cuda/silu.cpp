// Launchers of SiLU.
#include "kernels/cuda/silu.cuh"

#include "kernels/cuda/runtime/launch.h"
#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {

static const Kernel<SiluForward> silu_forward_kernel("silu_forward_kernel");
static const Kernel<SiluBackward> silu_backward_kernel("silu_backward_kernel");

void silu_forward(Context&, Tensor y, Tensor x) {
  shapes::silu_forward(y, x);
  silu_forward_kernel(cover(y.size()), kElementThreads, {view(y), view(x)});
}

void silu_backward(Context&, Grad dx, Tensor dy, Tensor x) {
  shapes::silu_backward(dx, dy, x);
  silu_backward_kernel(cover(x.size()), kElementThreads, {view(dx), view(dy), view(x)});
}

}  // namespace phx
