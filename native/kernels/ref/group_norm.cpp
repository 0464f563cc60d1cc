// The definition of group_norm: x̂ = (x - mean)·rstd per image and group, z = x̂·w + b, u = silu(z) or z, y = u·kept.  Wu & He 2018, eq. 1
// Backward: dz = dy·kept·u'(z), db = Σ dz, dw = Σ dz·x̂, dx = rstd·(g - mean(g) - x̂·mean(g·x̂)) with g = w·dz, means over the group.
#include <cmath>

#include "kernels/dropout.h"
#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {
namespace {

// Channel c of the pixel's row [x0 | x1].
real& at(const Tensor& x0, const Tensor& x1, size_t row, int c) { return c < x0.c ? x0.row(row)[c] : x1.row(row)[c - x0.c]; }

real sigmoid(real z) { return 1 / (1 + std::exp(-z)); }

}  // namespace

void group_norm_forward(Context&, Tensor y, Tensor mean, Tensor rstd, Tensor x0, Tensor x1, Tensor w, Tensor b, GroupNorm a) {
  shapes::group_norm_forward(y, mean, rstd, x0, x1, w, b, a);
  int channels = x0.c + (x1 ? x1.c : 0), width = channels / a.groups, pixels = x0.h * x0.w;
  DropoutRule rule(a.dropout);
  for (int n = 0; n < y.n; n++)
    for (int g = 0; g < a.groups; g++) {
      real sum = 0, squares = 0;
      for (size_t row = size_t(n) * pixels; row < size_t(n + 1) * pixels; row++)
        for (int c = g * width; c < (g + 1) * width; c++) sum += at(x0, x1, row, c);
      real middle = sum / (real(pixels) * width);
      for (size_t row = size_t(n) * pixels; row < size_t(n + 1) * pixels; row++)
        for (int c = g * width; c < (g + 1) * width; c++) squares += std::pow(at(x0, x1, row, c) - middle, 2);
      real factor = 1 / std::sqrt(squares / (real(pixels) * width) + a.eps);
      mean.row(n)[g] = middle;
      rstd.row(n)[g] = factor;
      for (size_t row = size_t(n) * pixels; row < size_t(n + 1) * pixels; row++)
        for (int c = g * width; c < (g + 1) * width; c++) {
          real z = (at(x0, x1, row, c) - middle) * factor * w.data[c] + b.data[c];
          y.row(row)[c] = (a.silu ? z * sigmoid(z) : z) * rule.kept(row * channels + c);
        }
    }
}

void group_norm_backward(Context&, Grad dx0, Grad dx1, Tensor dw, Tensor db, Tensor dy, Tensor mean, Tensor rstd, Tensor x0, Tensor x1,
                         Tensor w, Tensor b, GroupNorm a) {
  shapes::group_norm_backward(dx0, dx1, dw, db, dy, mean, rstd, x0, x1, w, b, a);
  int channels = x0.c + (x1 ? x1.c : 0), width = channels / a.groups, pixels = x0.h * x0.w;
  DropoutRule rule(a.dropout);
  auto normalized = [&](size_t row, int c) {
    size_t n = row / pixels;
    int g = c / width;
    return (at(x0, x1, row, c) - mean.row(n)[g]) * rstd.row(n)[g];
  };
  auto dz = [&](size_t row, int c) {
    real z = normalized(row, c) * w.data[c] + b.data[c], s = sigmoid(z);
    return dy.row(row)[c] * rule.kept(row * channels + c) * (a.silu ? s * (1 + z * (1 - s)) : 1);
  };

  for (int c = 0; c < channels; c++) {
    dw.data[c] = 0;
    db.data[c] = 0;
    for (size_t row = 0; row < x0.rows(); row++) {
      real d = dz(row, c);
      db.data[c] += d;
      dw.data[c] += d * normalized(row, c);
    }
  }
  for (int n = 0; n < x0.n; n++)
    for (int g = 0; g < a.groups; g++) {
      real sum = 0, product = 0;
      for (size_t row = size_t(n) * pixels; row < size_t(n + 1) * pixels; row++)
        for (int c = g * width; c < (g + 1) * width; c++) {
          real d = w.data[c] * dz(row, c);
          sum += d;
          product += d * normalized(row, c);
        }
      real size = real(pixels) * width;
      for (size_t row = size_t(n) * pixels; row < size_t(n + 1) * pixels; row++)
        for (int c = g * width; c < (g + 1) * width; c++) {
          const Grad& dx = c < x0.c ? dx0 : dx1;
          if (!dx) continue;
          real& out = dx.t.row(row)[c < x0.c ? c : c - x0.c];
          real d = w.data[c] * dz(row, c);
          out = (dx.accumulate ? out : 0) + rstd.row(n)[g] * (d - sum / size - normalized(row, c) * product / size);
        }
    }
}

}  // namespace phx
