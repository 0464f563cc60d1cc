// The weighted mean squared error of a batch and its gradient, for every precision: loss[n] = weight[n] · mean (y - target)².
// Summed in double, one task per image.
#include "kernels/ops.h"
#include "kernels/parallel.h"
#include "kernels/shapes.h"

namespace phx {

void mse_forward(Context& ctx, Tensor loss, Tensor y, Tensor target, Tensor weight) {
  shapes::mse_forward(loss, y, target, weight);
  size_t pixels = size_t(y.h) * y.w;
  parallel_for(ctx, y.n, [&](size_t begin, size_t end) {
    for (size_t n = begin; n < end; n++) {
      double sum = 0;
      for (size_t row = n * pixels; row < (n + 1) * pixels; row++)
        for (int c = 0; c < y.c; c++) {
          double difference = double(y.row(row)[c]) - target.row(row)[c];
          sum += difference * difference;
        }
      loss.data[n] = real(weight.data[n] * sum / (double(pixels) * y.c));
    }
  });
}

void mse_backward(Context& ctx, Tensor dy, Tensor y, Tensor target, Tensor weight) {
  shapes::mse_backward(dy, y, target, weight);
  size_t pixels = size_t(y.h) * y.w;
  parallel_for(ctx, y.n, [&](size_t begin, size_t end) {
    for (size_t n = begin; n < end; n++) {
      real factor = real(2.0 * weight.data[n] / (double(y.n) * pixels * y.c));
      for (size_t row = n * pixels; row < (n + 1) * pixels; row++)
        for (int c = 0; c < y.c; c++) dy.row(row)[c] = factor * (y.row(row)[c] - target.row(row)[c]);
    }
  });
}

}  // namespace phx
