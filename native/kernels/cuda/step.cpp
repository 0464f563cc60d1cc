// Launchers of what leads through the steps of a recorded program.
#include "kernels/cuda/step.cuh"

#include "kernels/cuda/runtime/launch.h"
#include "kernels/cuda/vector.cuh"
#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {

static const Kernel<NextRecord> next_record_kernel("next_record_kernel");
static const Kernel<FinishGradient> finish_gradient_kernel("finish_gradient_kernel");
static const Kernel<VectorSum> dot_kernel("dot_kernel");

void next_record(Context&, void* now, const void* records, size_t bytes, Progress* progress) {
  shapes::next_record(bytes);
  next_record_kernel({}, kElementThreads,
                     {static_cast<uint32_t*>(now), static_cast<const uint32_t*>(records), bytes / sizeof(uint32_t), progress});
}

void finish_gradient(Context& ctx, StepResult* results, Progress* progress, Adam* adam, Tensor loss, const real* g, size_t count,
                     double clip) {
  size_t partials = ceil_div(count, kSumBlock);
  double* partial = reinterpret_cast<double*>(ctx.scratch(partials * 2));
  dot_kernel({partials}, kElementThreads, {partial, g, g, count});
  finish_gradient_kernel({}, kElementThreads, {results, progress, adam, view(loss), partial, partials, clip});
}

}  // namespace phx
