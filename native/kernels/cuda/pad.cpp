// Launchers of padding.
#include "kernels/cuda/pad.cuh"

#include "kernels/cuda/runtime/launch.h"
#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {

static const Kernel<PadForward> pad_forward_kernel("pad_forward_kernel");
static const Kernel<PadBackward> pad_backward_kernel("pad_backward_kernel");

void pad_forward(Context&, Tensor y, Tensor x) {
  shapes::pad_forward(y, x);
  pad_forward_kernel(cover(y.size()), kElementThreads, {view(y), view(x)});
}

void pad_backward(Context&, Grad dx, Tensor dy) {
  shapes::pad_backward(dx, dy);
  pad_backward_kernel(cover(dx.t.size()), kElementThreads, {view(dx), view(dy)});
}

}  // namespace phx
