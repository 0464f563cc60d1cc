// One optimizer step over the parameter vector in one pass, for every precision.
// Kingma & Ba 2015, alg. 1; Loshchilov & Hutter 2019, alg. 2
// Bound by memory (five streams in, four out: 36 bytes per parameter), so the compiler's own vector code is enough; blocks of 4096 values
// keep a block of all five streams within the first- and second-level caches.
#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/ops.h"
#include "kernels/parallel.h"
#include "kernels/shapes.h"

namespace phx {
namespace {

constexpr size_t kBlock = 4096;

struct Factors {  // the step's constants, bias corrections included, formed once in double
  real rest1, rest2, scale, rate, root, eps, decay, ema;
};

template <bool with_ema>
void update(real* __restrict p, real* __restrict m, real* __restrict v, real* __restrict ema, const real* __restrict g, size_t count,
            Factors a) {
  for (size_t i = 0; i < count; i++) {
    real grad = g[i] * a.scale;
    real mean = m[i] + a.rest1 * (grad - m[i]);
    real square = v[i] + a.rest2 * (grad * grad - v[i]);
    real value = p[i] - a.decay * p[i] - a.rate * mean / (std::sqrt(square) * a.root + a.eps);
    m[i] = mean;
    v[i] = square;
    p[i] = value;
    if constexpr (with_ema) ema[i] += a.ema * (value - ema[i]);
  }
}

}  // namespace

void adam_step(Context& ctx, real* p, real* m, real* v, real* ema, Tensor rounded, const real* g, size_t count, const Adam* at) {
  shapes::adam_step(rounded, count);
  check(!rounded, "adam_step", "no copy in bf16: this backend keeps none");
  const Adam a = *at;
  if (a.halted) return;
  double correction1 = 1 - std::pow(a.beta1, double(a.step)), correction2 = 1 - std::pow(a.beta2, double(a.step));
  Factors factors = {
      real(1 - a.beta1), real(1 - a.beta2),           real(a.grad_scale),   real(a.lr / correction1), real(1 / std::sqrt(correction2)),
      real(a.eps),       real(a.lr * a.weight_decay), real(1 - a.ema_decay)};
  parallel_for(ctx, ceil_div(count, kBlock), [&](size_t begin, size_t end) {
    for (size_t i = begin * kBlock; i < std::min(count, end * kBlock); i += kBlock) {
      size_t size = std::min(kBlock, count - i);
      if (ema)
        update<true>(p + i, m + i, v + i, ema + i, g + i, size, factors);
      else
        update<false>(p + i, m + i, v + i, nullptr, g + i, size, factors);
    }
  });
}

}  // namespace phx
