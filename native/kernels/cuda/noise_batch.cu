// A noised batch and the prior's noise, a thread per element: xt = √ᾱ_t x + √(1-ᾱ_t) z.  Ho et al. 2020, eq. 4 and 14
#include "kernels/cuda/noise_batch.cuh"
#include "kernels/cuda/normal.cuh"

namespace phx {

// The loss weight at signal-to-noise ratio snr, which may be 0 or infinite.  Hang et al. 2023, eq. 9
__device__ inline double min_snr_weight(Prediction prediction, double snr, double gamma) {
  if (gamma <= 0) return 1;
  if (prediction == Prediction::eps) return fmin(1.0, gamma / snr);
  if (prediction == Prediction::x0) return fmin(snr, gamma);
  return fmin(snr, gamma) / (snr + 1);
}

extern "C" __global__ void __launch_bounds__(kThreads) noise_times_kernel(NoisingTimes a) {
  begin_kernel();
  size_t n = thread_index();
  if (n >= elements(a.t)) return;
  Words words = philox(a.attributes.draw->key, 0, uint32_t(n), a.attributes.draw->step, Purpose::timestep);
  int time = int(uint64_t(words.w[0]) * a.attributes.steps >> 32);
  double bar = a.alpha_bar[time];
  a.images[n] = {float(sqrt(bar)), float(sqrt(1 - bar)), a.attributes.flip && (words.w[1] & 1)};
  a.t.data[n] = float(time);
  a.weight.data[n] = float(min_snr_weight(a.attributes.prediction, bar / (1 - bar), a.attributes.min_snr_gamma));
}

extern "C" __global__ void __launch_bounds__(kThreads) noise_batch_kernel(NoisingBatch a) {
  begin_kernel();
  size_t e = thread_index(), row_size = size_t(a.xt.w) * a.xt.c, size = a.xt.h * row_size;
  if (e >= elements(a.xt)) return;
  size_t n = e / size, row = size_t(a.indices[n]) * a.xt.h + e % size / row_size;  // of all images' rows
  int j = int(e % row_size) / a.xt.c, c = int(e % a.xt.c);
  NoisedImage image = a.images[n];
  float x = a.pixels[row * row_size + size_t(image.mirror ? a.xt.w - 1 - j : j) * a.xt.c + c] / 127.5f - 1;
  float z = normal(a.draw->key, e % size, uint32_t(n), a.draw->step, Purpose::noise);
  put_element(a.xt, e, image.signal * x + image.sigma * z);
  put_element(a.target, e, a.prediction == Prediction::eps ? z : a.prediction == Prediction::x0 ? x : image.signal * z - image.sigma * x);
}

extern "C" __global__ void __launch_bounds__(kThreads) normal_fill_kernel(NormalFill a) {
  begin_kernel();
  size_t e = thread_index(), size = size_t(a.x.h) * a.x.w * a.x.c;
  if (e >= elements(a.x)) return;
  put_element(a.x, e, normal(a.key, e % size, a.first_image + uint32_t(e / size), 0, Purpose::prior));
}

}  // namespace phx
