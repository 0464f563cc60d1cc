// Launchers of the loss.
#include "kernels/cuda/mse.cuh"

#include "kernels/cuda/runtime/launch.h"
#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {

static const Kernel<MseForward> mse_forward_kernel("mse_forward_kernel");
static const Kernel<MseBackward> mse_backward_kernel("mse_backward_kernel");

void mse_forward(Context&, Tensor loss, Tensor y, Tensor target, Tensor weight) {
  shapes::mse_forward(loss, y, target, weight);
  mse_forward_kernel({size_t(y.n)}, kElementThreads, {view(loss), view(y), view(target), view(weight)});
}

void mse_backward(Context&, Tensor dy, Tensor y, Tensor target, Tensor weight) {
  shapes::mse_backward(dy, y, target, weight);
  mse_backward_kernel(cover(y.size()), kElementThreads, {view(dy), view(y), view(target), view(weight)});
}

}  // namespace phx
