// Launchers of noising.
#include "kernels/cuda/noise_batch.cuh"

#include "kernels/cuda/runtime/launch.h"
#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {

static const Kernel<NoisingTimes> noise_times_kernel("noise_times_kernel");
static const Kernel<NoisingBatch> noise_batch_kernel("noise_batch_kernel");
static const Kernel<NormalFill> normal_fill_kernel("normal_fill_kernel");

void noise_batch(Context& ctx, Tensor xt, Tensor target, Tensor weight, Tensor t, const uint8_t* images, const int32_t* indices,
                 const double* alpha_bar, NoiseBatch a) {
  shapes::noise_batch(xt, target, weight, t, a);
  auto* noised = reinterpret_cast<NoisedImage*>(ctx.scratch(size_t(xt.n) * sizeof(NoisedImage) / sizeof(real)));
  noise_times_kernel(cover(size_t(xt.n)), kElementThreads, {view(t), view(weight), noised, alpha_bar, a});
  noise_batch_kernel(cover(xt.size()), kElementThreads, {view(xt), view(target), images, indices, noised, a.draw, a.prediction});
}

void normal_fill(Context&, Tensor x, uint64_t key, uint32_t first_image) {
  normal_fill_kernel(cover(x.size()), kElementThreads, {view(x), key, first_image});
}

}  // namespace phx
