// One row of a sampler's table applied to a batch, for every precision: x ← cx·x + c0·x̂0 + c1·x̂0_prev + cz·z, x̂0_prev ← x̂0.
// DDPM (Ho et al. 2020, eq. 7), DDIM (Song et al. 2021, eq. 12) and DPM-Solver++(2M) (Lu et al. 2022, alg. 2) differ in the scalars only.
#include <algorithm>

#include "kernels/normal.h"
#include "kernels/ops.h"
#include "kernels/parallel.h"
#include "kernels/shapes.h"

namespace phx {

void sampler_step(Context& ctx, Tensor x, Tensor x0_prev, Tensor m, const SamplerStep* at) {
  shapes::sampler_step(x, x0_prev, m);
  const SamplerStep a = *at;
  size_t pixels = size_t(x.h) * x.w;
  parallel_for(ctx, x.n, [&](size_t begin, size_t end) {
    for (size_t n = begin; n < end; n++) {
      NormalStream normals(a.key, a.first_image + uint32_t(n), a.step, Purpose::sampler);
      for (size_t row = n * pixels; row < (n + 1) * pixels; row++)
        for (int c = 0; c < x.c; c++) {
          real &value = x.row(row)[c], &before = x0_prev.row(row)[c];
          real out = m.row(row)[c];
          real x0 = a.prediction == Prediction::eps  ? (value - a.sigma * out) / a.alpha
                    : a.prediction == Prediction::x0 ? out
                                                     : a.alpha * value - a.sigma * out;
          if (a.clip) x0 = std::clamp(x0, real(-1), real(1));
          real next = a.cx * value + a.c0 * x0;
          if (a.c1 != 0) next += a.c1 * before;  // before the first step x̂0_prev holds nothing yet
          if (a.cz != 0) next += a.cz * normals.next();
          value = next;
          before = x0;
        }
    }
  });
}

}  // namespace phx
