// Padding and cropping at the right and the bottom, a thread per element of what is written.
#include "kernels/cuda/pad.cuh"

namespace phx {

// The value of `from` where `to` has its element e, 0 outside.
__device__ inline float corner(const View& from, const View& to, size_t e) {
  size_t pixel = e / to.c;
  int j = int(pixel % to.w), i = int(pixel / to.w % to.h), n = int(pixel / to.w / to.h);
  return i < from.h && j < from.w ? at(from, (size_t(n) * from.h + i) * from.w + j, int(e % to.c)) : 0;
}

extern "C" __global__ void __launch_bounds__(kThreads) pad_forward_kernel(PadForward a) {
  begin_kernel();
  size_t e = thread_index();
  if (e < elements(a.y)) put_element(a.y, e, corner(a.x, a.y, e));
}

extern "C" __global__ void __launch_bounds__(kThreads) pad_backward_kernel(PadBackward a) {
  begin_kernel();
  size_t e = thread_index();
  if (e < elements(a.dx.t)) write(a.dx, e / a.dx.t.c, int(e % a.dx.t.c), corner(a.dy, a.dx.t, e));
}

}  // namespace phx
