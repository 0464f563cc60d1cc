// Copies and fills within device memory, a thread per element.
#include "kernels/cuda/runtime/memory.cuh"

namespace phx {

extern "C" __global__ void __launch_bounds__(kThreads) copy_kernel(Copy a) {
  begin_kernel();
  size_t i = thread_index();
  if (i < a.count) a.to[i] = a.from[i];
}

extern "C" __global__ void __launch_bounds__(kThreads) fill_kernel(Fill a) {
  begin_kernel();
  size_t i = thread_index();
  if (i < a.count) a.to[i] = a.value;
}

}  // namespace phx
