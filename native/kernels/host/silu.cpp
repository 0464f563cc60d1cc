// y = x · sigmoid(x) = x/(1 + e⁻ˣ), for every precision.  Elfwing et al. 2018
// Used alone only on the time embedding (a few thousand values per batch); everywhere else it is part of group_norm.
#include <cmath>

#include "kernels/ops.h"
#include "kernels/parallel.h"
#include "kernels/shapes.h"

namespace phx {

void silu_forward(Context& ctx, Tensor y, Tensor x) {
  shapes::silu_forward(y, x);
  parallel_for(ctx, x.rows(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++)
      for (int c = 0; c < x.c; c++) y.row(i)[c] = x.row(i)[c] / (1 + std::exp(-x.row(i)[c]));
  });
}

void silu_backward(Context& ctx, Grad dx, Tensor dy, Tensor x) {
  shapes::silu_backward(dx, dy, x);
  parallel_for(ctx, x.rows(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++)
      for (int c = 0; c < x.c; c++) {
        real value = x.row(i)[c], s = 1 / (1 + std::exp(-value)), &out = dx.t.row(i)[c];
        out = (dx.accumulate ? out : 0) + dy.row(i)[c] * s * (1 + value * (1 - s));
      }
  });
}

}  // namespace phx
