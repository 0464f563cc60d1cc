// The steps of a recorded program, a block of threads each: the next record, and what stands between the gradient and the optimizer's step.
#include "kernels/cuda/step.cuh"

namespace phx {

extern "C" __global__ void __launch_bounds__(kThreads) next_record_kernel(NextRecord a) {
  begin_kernel();
  size_t begun = a.progress->begun;
  for (size_t i = threadIdx.x; i < a.words; i += kThreads) a.now[i] = a.records[begun * a.words + i];
  __syncthreads();
  if (threadIdx.x == 0) a.progress->begun = uint32_t(begun + 1);
}

extern "C" __global__ void __launch_bounds__(kThreads) finish_gradient_kernel(FinishGradient a) {
  begin_kernel();
  double squares = 0, losses = 0;
  for (size_t i = threadIdx.x; i < a.partials; i += kThreads) squares += a.partial[i];
  for (size_t i = threadIdx.x; i < elements(a.loss); i += kThreads) losses += a.loss.data[i];
  squares = block_sum(squares);
  losses = block_sum(losses);
  if (threadIdx.x) return;
  StepResult found{losses / double(elements(a.loss)), sqrt(squares)};
  a.results[a.progress->begun - 1] = found;
  a.adam->grad_scale = a.clip > 0 && found.grad_norm > a.clip ? a.clip / found.grad_norm : 1;
  if (!isfinite(found.loss) || !isfinite(found.grad_norm)) a.progress->halted = 1;
  a.adam->halted = a.progress->halted;
}

}  // namespace phx
