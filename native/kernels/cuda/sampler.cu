// One row of a sampler's table, a thread per element: x ← cx·x + c0·x̂0 + c1·x̂0_prev + cz·z, x̂0_prev ← x̂0.
#include "kernels/cuda/normal.cuh"
#include "kernels/cuda/sampler.cuh"

namespace phx {

extern "C" __global__ void __launch_bounds__(kThreads) sampler_step_kernel(SamplerUpdate u) {
  begin_kernel();
  size_t e = thread_index(), size = size_t(u.x.h) * u.x.w * u.x.c;
  if (e >= elements(u.x)) return;
  const SamplerStep& s = *u.step;
  float x = element(u.x, e), m = element(u.m, e);
  float x0 = s.prediction == Prediction::eps ? (x - s.sigma * m) / s.alpha : s.prediction == Prediction::x0 ? m : s.alpha * x - s.sigma * m;
  if (s.clip) x0 = x0 < -1 ? -1 : x0 > 1 ? 1 : x0;  // NaN stays
  float next = s.cx * x + s.c0 * x0;
  if (s.c1 != 0) next += s.c1 * element(u.x0_prev, e);  // before the first step x̂0_prev holds nothing yet
  if (s.cz != 0) next += s.cz * normal(s.key, e % size, s.first_image + uint32_t(e / size), s.step, Purpose::sampler);
  put_element(u.x, e, next);
  put_element(u.x0_prev, e, x0);
}

}  // namespace phx
