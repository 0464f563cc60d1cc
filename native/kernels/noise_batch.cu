// A noised batch and the prior's noise, a thread an element: xt = √ᾱ_t x + √(1-ᾱ_t) z.  Ho et al. 2020, eq. 4 and 14
#include "noise_batch.cuh"
#include "normal.cuh"

namespace phx {

extern "C" __global__ void __launch_bounds__(kThreads) noise_batch_kernel(NoisingBatch a) {
  size_t e = thread_index(), row_size = size_t(a.xt.w) * a.xt.c, size = a.xt.h * row_size;
  if (e >= elements(a.xt)) return;
  size_t n = e / size, row = e / row_size;
  int j = int(e % row_size) / a.xt.c, c = int(e % a.xt.c);
  NoisedImage image = a.images[n];
  float x = a.pixels[row * row_size + size_t(image.mirror ? a.xt.w - 1 - j : j) * a.xt.c + c] / 127.5f - 1;
  float z = normal(a.key, e % size, uint32_t(n), a.step, Purpose::noise);
  put_element(a.xt, e, image.signal * x + image.sigma * z);
  put_element(a.target, e, a.prediction == Prediction::eps ? z : a.prediction == Prediction::x0 ? x : image.signal * z - image.sigma * x);
}

extern "C" __global__ void __launch_bounds__(kThreads) normal_fill_kernel(NormalFill a) {
  size_t e = thread_index(), size = size_t(a.x.h) * a.x.w * a.x.c;
  if (e >= elements(a.x)) return;
  put_element(a.x, e, normal(a.key, e % size, a.first_image + uint32_t(e / size), 0, Purpose::prior));
}

}  // namespace phx
