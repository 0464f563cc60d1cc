// The definition of conv2d: ops.h's sum, and its derivative by the chain rule, in plain loops over every output and tap.
#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {
namespace {

// The pixel of x that tap (r,s) of output (i,j) reads, or null outside.
real* tap(const Tensor& x, int n, int i, int j, int r, int s, Conv2d a) {
  int h = i * a.stride + r - a.pad, w = j * a.stride + s - a.pad;
  if (h < 0 || w < 0 || h >= x.h * a.upsample || w >= x.w * a.upsample) return nullptr;
  return x.row((size_t(n) * x.h + h / a.upsample) * x.w + w / a.upsample);
}

}  // namespace

void conv2d_forward(Context& ctx, Tensor y, Tensor x, Tensor temb, Tensor residual, Shortcut shortcut, Tensor w, Tensor b, Conv2d a) {
  shapes::conv2d_forward(y, x, temb, residual, shortcut, w, b, a);
  if (shortcut.x0) {
    linear_forward(ctx, y, shortcut.x0, shortcut.x1, residual, shortcut.w, shortcut.b);
    residual = y;
  }
  for (int n = 0; n < y.n; n++)
    for (int i = 0; i < y.h; i++)
      for (int j = 0; j < y.w; j++) {
        size_t pixel = (size_t(n) * y.h + i) * y.w + j;
        for (int k = 0; k < y.c; k++) {
          real sum = b.data[k];
          if (temb) sum += temb.row(n)[k];
          if (residual) sum += residual.row(pixel)[k];
          for (int r = 0; r < 3; r++)
            for (int s = 0; s < 3; s++)
              if (const real* in = tap(x, n, i, j, r, s, a))
                for (int c = 0; c < x.c; c++) sum += w.row((size_t(k) * 3 + r) * 3 + s)[c] * in[c];
          y.row(pixel)[k] = sum;
        }
      }
}

void conv2d_backward(Context&, Grad dx, Tensor dtemb, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Conv2d a) {
  shapes::conv2d_backward(dx, dtemb, dw, db, dy, x, w, a);
  if (dx && !dx.accumulate)
    for (size_t i = 0; i < dx.t.rows(); i++)
      for (int c = 0; c < dx.t.c; c++) dx.t.row(i)[c] = 0;
  for (size_t i = 0; i < dw.size(); i++) dw.data[i] = 0;
  for (int k = 0; k < dy.c; k++) {
    db.data[k] = 0;
    for (int n = 0; n < dy.n; n++) {
      real sum = 0;
      for (int p = 0; p < dy.h * dy.w; p++) sum += dy.row(size_t(n) * dy.h * dy.w + p)[k];
      if (dtemb) dtemb.row(n)[k] = sum;
      db.data[k] += sum;
    }
  }
  for (int n = 0; n < dy.n; n++)
    for (int i = 0; i < dy.h; i++)
      for (int j = 0; j < dy.w; j++)
        for (int r = 0; r < 3; r++)
          for (int s = 0; s < 3; s++) {
            const real* in = tap(x, n, i, j, r, s, a);
            if (!in) continue;
            real* din = dx ? tap(dx.t, n, i, j, r, s, a) : nullptr;
            for (int k = 0; k < dy.c; k++) {
              real g = dy.row((size_t(n) * dy.h + i) * dy.w + j)[k];
              size_t at = (size_t(k) * 3 + r) * 3 + s;
              for (int c = 0; c < x.c; c++) {
                dw.row(at)[c] += g * in[c];
                if (din) din[c] += g * w.row(at)[c];
              }
            }
          }
}

}  // namespace phx
