// The definition of linear: y = [x0 | x1] wᵀ + b + residual, one sum per element.
#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {
namespace {

// Column c of the row [x0 | x1].
real& at(const Tensor& x0, const Tensor& x1, size_t row, int c) { return c < x0.c ? x0.row(row)[c] : x1.row(row)[c - x0.c]; }

}  // namespace

void linear_forward(Context&, Tensor y, Tensor x0, Tensor x1, Tensor residual, Tensor w, Tensor b) {
  shapes::linear_forward(y, x0, x1, residual, w, b);
  int columns = x0.c + (x1 ? x1.c : 0);
  for (size_t i = 0; i < y.rows(); i++)
    for (int k = 0; k < y.c; k++) {
      real sum = b ? b.data[k] : 0;
      if (residual) sum += residual.row(i)[k];
      for (int c = 0; c < columns; c++) sum += at(x0, x1, i, c) * w.row(k)[c];
      y.row(i)[k] = sum;
    }
}

void linear_backward(Context&, Grad dx0, Grad dx1, Tensor dw, Tensor db, Tensor dy, Tensor x0, Tensor x1, Tensor w) {
  shapes::linear_backward(dx0, dx1, dw, db, dy, x0, x1, w);
  int columns = x0.c + (x1 ? x1.c : 0);
  for (size_t i = 0; i < dy.rows(); i++)
    for (int c = 0; c < columns; c++) {
      const Grad& dx = c < x0.c ? dx0 : dx1;
      if (!dx) continue;
      real& out = dx.t.row(i)[c < x0.c ? c : c - x0.c];
      real sum = dx.accumulate ? out : 0;
      for (int k = 0; k < dy.c; k++) sum += dy.row(i)[k] * w.row(k)[c];
      out = sum;
    }
  for (int k = 0; k < dy.c; k++) {
    for (int c = 0; c < columns; c++) {
      real sum = 0;
      for (size_t i = 0; i < dy.rows(); i++) sum += dy.row(i)[k] * at(x0, x1, i, c);
      dw.row(k)[c] = sum;
    }
    if (!db) continue;
    real sum = 0;
    for (size_t i = 0; i < dy.rows(); i++) sum += dy.row(i)[k];
    db.data[k] = sum;
  }
}

}  // namespace phx
