// Launchers of padding.
#include "pad.cuh"

#include "check.h"
#include "launch.cuda.h"
#include "ops.h"

namespace phx {

static const Kernel<PadForward> pad_forward_kernel("pad_forward_kernel");
static const Kernel<PadBackward> pad_backward_kernel("pad_backward_kernel");

void pad_forward(Context&, Tensor y, Tensor x) {
  check(x.n == y.n && x.c == y.c, "pad_forward", "as many images and channels in x " + shape_of(x) + " as in y " + shape_of(y));
  pad_forward_kernel(cover(y.size()), kElementThreads, {view(y), view(x)});
}

void pad_backward(Context&, Grad dx, Tensor dy) {
  check(dx.t.n == dy.n && dx.t.c == dy.c, "pad_backward",
        "as many images and channels in dx " + shape_of(dx.t) + " as in dy " + shape_of(dy));
  pad_backward_kernel(cover(dx.t.size()), kElementThreads, {view(dx), view(dy)});
}

}  // namespace phx
