// y = x · sigmoid(x), a thread per element.  Elfwing et al. 2018
#include "kernels/cuda/silu.cuh"

namespace phx {

extern "C" __global__ void __launch_bounds__(kThreads) silu_forward_kernel(SiluForward a) {
  begin_kernel();
  size_t e = thread_index();
  if (e >= elements(a.y)) return;
  float x = element(a.x, e);
  put_element(a.y, e, x / (1 + expf(-x)));
}

extern "C" __global__ void __launch_bounds__(kThreads) silu_backward_kernel(SiluBackward a) {
  begin_kernel();
  size_t e = thread_index();
  if (e >= elements(a.x)) return;
  float x = element(a.x, e), s = sigmoid(x);
  write(a.dx, e / a.x.c, int(e % a.x.c), element(a.dy, e) * s * (1 + x * (1 - s)));
}

}  // namespace phx
