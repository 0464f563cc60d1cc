// Launchers of noising. Times, weights and flips are a few numbers an image: the host draws them, and sends them with the batch's pixels.
#include "noise_batch.cuh"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "device.h"
#include "launch.cuda.h"
#include "ops.h"
#include "philox.h"

namespace phx {

// The loss weight at signal-to-noise ratio snr, which may be 0 or infinite.  Hang et al. 2023, eq. 9
static double min_snr_weight(Prediction prediction, double snr, double gamma) {
  if (gamma <= 0) return 1;
  if (prediction == Prediction::eps) return std::min(1.0, gamma / snr);
  if (prediction == Prediction::x0) return std::min(snr, gamma);
  return std::min(snr, gamma) / (snr + 1);
}

static const Kernel<NoisingBatch> noise_batch_kernel("noise_batch_kernel");
static const Kernel<NormalFill> normal_fill_kernel("normal_fill_kernel");

void noise_batch(Context& ctx, Tensor xt, Tensor target, Tensor weight, Tensor t, const uint8_t* images, const int32_t* indices,
                 const double* alpha_bar, NoiseBatch a) {
  check_shape("noise_batch", "target", target, xt.n, xt.h, xt.w, xt.c);
  check(weight.size() == size_t(xt.n) && t.size() == size_t(xt.n), "noise_batch", "one weight and one t an image");
  check(a.steps > 0, "noise_batch", "steps > 0");
  size_t count = size_t(xt.n), size = size_t(xt.h) * xt.w * xt.c, head = count * sizeof(NoisedImage);
  std::vector<real> times(count), weights(count);
  std::vector<uint8_t> staged(head + count * size);
  for (size_t n = 0; n < count; n++) {
    Words words = philox(a.key, 0, uint32_t(n), a.step, Purpose::timestep);
    int time = int(uint64_t(words.w[0]) * a.steps >> 32);
    double bar = alpha_bar[time];
    NoisedImage image{real(std::sqrt(bar)), real(std::sqrt(1 - bar)), a.flip && (words.w[1] & 1)};
    times[n] = real(time);
    weights[n] = real(min_snr_weight(a.prediction, bar / (1 - bar), a.min_snr_gamma));
    std::memcpy(staged.data() + n * sizeof image, &image, sizeof image);
    std::copy_n(images + size_t(indices[n]) * size, size, staged.data() + head + n * size);
  }
  uint8_t* place = reinterpret_cast<uint8_t*>(ctx.scratch((staged.size() + sizeof(real) - 1) / sizeof(real)));
  device_put(place, staged.data(), staged.size());
  device_put(t.data, times.data(), count * sizeof(real));
  device_put(weight.data, weights.data(), count * sizeof(real));
  noise_batch_kernel(cover(xt.size()), kElementThreads,
                     {view(xt), view(target), place + head, reinterpret_cast<const NoisedImage*>(place), a.key, a.step, a.prediction});
}

void normal_fill(Context&, Tensor x, uint64_t key, uint32_t first_image) {
  normal_fill_kernel(cover(x.size()), kElementThreads, {view(x), key, first_image});
}

}  // namespace phx
