// y = x · sigmoid(x) = x/(1 + e⁻ˣ), for every precision.  Elfwing et al. 2018
// Used alone only on the time embedding (a few thousand values per batch); everywhere else it is part of group_norm.
#include <cmath>

#include "check.h"
#include "ops.h"
#include "parallel.h"

namespace phx {

void silu_forward(Context& ctx, Tensor y, Tensor x) {
  check_shape("silu_forward", "y", y, x.n, x.h, x.w, x.c);
  parallel_for(ctx, x.rows(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++)
      for (int c = 0; c < x.c; c++) y.row(i)[c] = x.row(i)[c] / (1 + std::exp(-x.row(i)[c]));
  });
}

void silu_backward(Context& ctx, Grad dx, Tensor dy, Tensor x) {
  check_shape("silu_backward", "dx", dx.t, x.n, x.h, x.w, x.c);
  check_shape("silu_backward", "dy", dy, x.n, x.h, x.w, x.c);
  parallel_for(ctx, x.rows(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++)
      for (int c = 0; c < x.c; c++) {
        real value = x.row(i)[c], s = 1 / (1 + std::exp(-value)), &out = dx.t.row(i)[c];
        out = (dx.accumulate ? out : 0) + dy.row(i)[c] * s * (1 + value * (1 - s));
      }
  });
}

}  // namespace phx
