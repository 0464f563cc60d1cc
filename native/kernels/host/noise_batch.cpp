// A noised batch and the prior's noise, for every precision.  Ho et al. 2020, eq. 4 and 14; Hang et al. 2023, eq. 9
// xt = √ᾱ_t x + √(1-ᾱ_t) z, one task per image; words and normals as ops.h and normal.h say.
#include <algorithm>
#include <cmath>

#include "kernels/normal.h"
#include "kernels/ops.h"
#include "kernels/parallel.h"
#include "kernels/shapes.h"

namespace phx {
namespace {

// The loss weight at signal-to-noise ratio snr, which may be 0 or infinite.
double min_snr_weight(Prediction prediction, double snr, double gamma) {
  if (gamma <= 0) return 1;
  if (prediction == Prediction::eps) return std::min(1.0, gamma / snr);
  if (prediction == Prediction::x0) return std::min(snr, gamma);
  return std::min(snr, gamma) / (snr + 1);
}

}  // namespace

void noise_batch(Context& ctx, Tensor xt, Tensor target, Tensor weight, Tensor t, const uint8_t* images, const int32_t* indices,
                 const double* alpha_bar, NoiseBatch a) {
  shapes::noise_batch(xt, target, weight, t, a);
  const Draw draw = *a.draw;
  parallel_for(ctx, xt.n, [&](size_t begin, size_t end) {
    for (size_t n = begin; n < end; n++) {
      Words words = philox(draw.key, 0, uint32_t(n), draw.step, Purpose::timestep);
      int time = int(uint64_t(words.w[0]) * a.steps >> 32);
      bool mirror = a.flip && (words.w[1] & 1);
      double bar = alpha_bar[time];
      real signal = real(std::sqrt(bar)), sigma = real(std::sqrt(1 - bar));
      t.data[n] = real(time);
      weight.data[n] = real(min_snr_weight(a.prediction, bar / (1 - bar), a.min_snr_gamma));

      const uint8_t* image = images + size_t(indices[n]) * xt.h * xt.w * xt.c;
      NormalStream normals(draw.key, uint32_t(n), draw.step, Purpose::noise);
      for (int i = 0; i < xt.h; i++)
        for (int j = 0; j < xt.w; j++) {
          const uint8_t* pixel = image + (size_t(i) * xt.w + (mirror ? xt.w - 1 - j : j)) * xt.c;
          size_t row = (n * xt.h + i) * xt.w + j;
          for (int c = 0; c < xt.c; c++) {
            real x = pixel[c] / real(127.5) - 1, z = normals.next();
            xt.row(row)[c] = signal * x + sigma * z;
            target.row(row)[c] = a.prediction == Prediction::eps ? z : a.prediction == Prediction::x0 ? x : signal * z - sigma * x;
          }
        }
    }
  });
}

void normal_fill(Context& ctx, Tensor x, uint64_t key, uint32_t first_image) {
  size_t pixels = size_t(x.h) * x.w;
  parallel_for(ctx, x.n, [&](size_t begin, size_t end) {
    for (size_t n = begin; n < end; n++) {
      NormalStream normals(key, first_image + uint32_t(n), 0, Purpose::prior);
      for (size_t p = 0; p < pixels; p++)
        for (int c = 0; c < x.c; c++) x.row(n * pixels + p)[c] = normals.next();
    }
  });
}

}  // namespace phx
