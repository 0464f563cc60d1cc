// One optimizer step over the parameter vector, a thread a parameter.  Kingma & Ba 2015, alg. 1; Loshchilov & Hutter 2019, alg. 2
#include "adam.cuh"

namespace phx {

extern "C" __global__ void __launch_bounds__(kThreads) adam_step_kernel(AdamUpdate a) {
  size_t i = thread_index();
  if (i >= a.count) return;
  float grad = a.g[i] * a.scale, p = a.p[i];
  float m = a.m[i] + a.rest1 * (grad - a.m[i]);
  float v = a.v[i] + a.rest2 * (grad * grad - a.v[i]);
  float value = p - a.decay * p - a.rate * m / (sqrtf(v) * a.root + a.eps);
  a.m[i] = m;
  a.v[i] = v;
  a.p[i] = value;
  if (a.rounded) a.rounded[i] = bf16_bits(value);
  if (a.ema) a.ema[i] += a.ema_rest * (value - a.ema[i]);
}

}  // namespace phx
