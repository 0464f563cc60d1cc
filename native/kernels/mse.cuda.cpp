// Launchers of the loss.
#include "mse.cuh"

#include "check.h"
#include "launch.cuda.h"
#include "ops.h"

namespace phx {

static const Kernel<MseForward> mse_forward_kernel("mse_forward_kernel");
static const Kernel<MseBackward> mse_backward_kernel("mse_backward_kernel");

void mse_forward(Context&, Tensor loss, Tensor y, Tensor target, Tensor weight) {
  check_shape("mse_forward", "target", target, y.n, y.h, y.w, y.c);
  check(loss.size() == size_t(y.n) && weight.size() == size_t(y.n), "mse_forward", "one loss and one weight an image");
  mse_forward_kernel({size_t(y.n)}, kElementThreads, {view(loss), view(y), view(target), view(weight)});
}

void mse_backward(Context&, Tensor dy, Tensor y, Tensor target, Tensor weight) {
  check_shape("mse_backward", "target", target, y.n, y.h, y.w, y.c);
  check_shape("mse_backward", "dy", dy, y.n, y.h, y.w, y.c);
  check(weight.size() == size_t(y.n), "mse_backward", "one weight an image");
  mse_backward_kernel(cover(y.size()), kElementThreads, {view(dy), view(y), view(target), view(weight)});
}

}  // namespace phx
