// Padding and cropping at the right and the bottom, for every precision: y holds x in its top left corner, zeros elsewhere.
#include <algorithm>

#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {

void pad_forward(Context&, Tensor y, Tensor x) {
  shapes::pad_forward(y, x);
  for (int n = 0; n < y.n; n++)
    for (int i = 0; i < y.h; i++)
      for (int j = 0; j < y.w; j++) {
        real* out = y.row((size_t(n) * y.h + i) * y.w + j);
        if (i < x.h && j < x.w)
          std::copy_n(x.row((size_t(n) * x.h + i) * x.w + j), y.c, out);
        else
          std::fill_n(out, y.c, real(0));
      }
}

void pad_backward(Context&, Grad dx, Tensor dy) {
  shapes::pad_backward(dx, dy);
  const Tensor& x = dx.t;
  for (int n = 0; n < x.n; n++)
    for (int i = 0; i < x.h; i++)
      for (int j = 0; j < x.w; j++) {
        real* out = x.row((size_t(n) * x.h + i) * x.w + j);
        const real* in = i < dy.h && j < dy.w ? dy.row((size_t(n) * dy.h + i) * dy.w + j) : nullptr;
        for (int c = 0; c < x.c; c++) out[c] = (dx.accumulate ? out[c] : 0) + (in ? in[c] : 0);
      }
}

}  // namespace phx
