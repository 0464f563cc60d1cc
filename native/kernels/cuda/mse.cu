// The weighted mean squared error of a batch and its gradient: loss[n] = weight[n] · mean (y - target)². Summed in double, a block an
// image.
#include "kernels/cuda/mse.cuh"

namespace phx {

extern "C" __global__ void __launch_bounds__(kThreads) mse_forward_kernel(MseForward a) {
  begin_kernel();
  size_t size = size_t(a.y.h) * a.y.w * a.y.c, first = blockIdx.x * size;
  double sum = 0;
  for (size_t e = first + threadIdx.x; e < first + size; e += kThreads) {
    double difference = double(element(a.y, e)) - element(a.target, e);
    sum += difference * difference;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) a.loss.data[blockIdx.x] = float(a.weight.data[blockIdx.x] * sum / double(size));
}

extern "C" __global__ void __launch_bounds__(kThreads) mse_backward_kernel(MseBackward a) {
  begin_kernel();
  size_t e = thread_index(), size = size_t(a.y.h) * a.y.w * a.y.c;
  if (e >= elements(a.y)) return;
  float factor = float(2.0 * a.weight.data[e / size] / (double(a.y.n) * size));
  put_element(a.dy, e, factor * (element(a.y, e) - element(a.target, e)));
}

}  // namespace phx
