// One optimizer step over the parameter vector, a thread per parameter.  Kingma & Ba 2015, alg. 1; Loshchilov & Hutter 2019, alg. 2
#include "kernels/cuda/adam.cuh"

namespace phx {

extern "C" __global__ void adam_prepare_kernel(AdamPrepare a) {
  begin_kernel();
  if (threadIdx.x) return;
  const Adam& s = *a.step;
  double correction1 = 1 - pow(s.beta1, double(s.step)), correction2 = 1 - pow(s.beta2, double(s.step));
  *a.constants = {float(1 - s.beta1),           float(1 - s.beta2),           float(s.grad_scale),
                  float(s.lr / correction1),    float(1 / sqrt(correction2)), float(s.eps),
                  float(s.lr * s.weight_decay), float(1 - s.ema_decay),       s.halted != 0};
}

extern "C" __global__ void __launch_bounds__(kThreads) adam_step_kernel(AdamUpdate a) {
  begin_kernel();
  size_t i = thread_index();
  const AdamConstants& c = *a.constants;
  if (i >= a.count || c.halted) return;
  float grad = a.g[i] * c.scale, p = a.p[i];
  float m = a.m[i] + c.rest1 * (grad - a.m[i]);
  float v = a.v[i] + c.rest2 * (grad * grad - a.v[i]);
  float value = p - c.decay * p - c.rate * m / (sqrtf(v) * c.root + c.eps);
  a.m[i] = m;
  a.v[i] = v;
  a.p[i] = value;
  if (a.rounded) a.rounded[i] = bf16_bits(value);
  if (a.ema) a.ema[i] += c.ema_rest * (value - a.ema[i]);
}

}  // namespace phx
