// Launchers of SiLU.
#include "silu.cuh"

#include "check.h"
#include "launch.cuda.h"
#include "ops.h"

namespace phx {

static const Kernel<SiluForward> silu_forward_kernel("silu_forward_kernel");
static const Kernel<SiluBackward> silu_backward_kernel("silu_backward_kernel");

void silu_forward(Context&, Tensor y, Tensor x) {
  check_shape("silu_forward", "y", y, x.n, x.h, x.w, x.c);
  silu_forward_kernel(cover(y.size()), kElementThreads, {view(y), view(x)});
}

void silu_backward(Context&, Grad dx, Tensor dy, Tensor x) {
  check_shape("silu_backward", "dx", dx.t, x.n, x.h, x.w, x.c);
  check_shape("silu_backward", "dy", dy, x.n, x.h, x.w, x.c);
  silu_backward_kernel(cover(x.size()), kElementThreads, {view(dx), view(dy), view(x)});
}

}  // namespace phx
