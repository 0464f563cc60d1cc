// Launchers of linear.
#include "linear.cuh"

#include "check.h"
#include "launch.cuda.h"
#include "mma_product.cuda.h"
#include "ops.h"
#include "reduce.cuda.h"
#include "wgmma_product.cuda.h"

namespace phx {
namespace {

const Kernel<LinearForward> linear_forward_kernel("linear_forward_kernel");
const Kernel<LinearInputGradient> linear_input_gradient_kernel("linear_input_gradient_kernel");
const Kernel<LinearWeightGradient> linear_weight_gradient_kernel("linear_weight_gradient_kernel");

unsigned tiles(int count) { return unsigned(count + kTile - 1) / kTile; }
Blocks grid(ProductSize size) { return {tiles(size.m), tiles(size.n), unsigned((size.k + size.k_step - 1) / size.k_step)}; }

}  // namespace

void linear_forward(Context&, Tensor y, Tensor x0, Tensor x1, Tensor residual, Tensor w, Tensor b) {
  int columns = x0.c + (x1 ? x1.c : 0);
  check_shape("linear_forward", "w", w, y.c, 1, 1, columns);
  check(y.rows() == x0.rows(), "linear_forward", "as many rows in y as in x0");
  if (wgmma_linear_forward(y, x0, x1, residual, w, b)) return;
  if (auto plan = mma_linear_forward(y, x0, x1, residual, w, b)) return mma_forward(*plan);
  ProductSize size{int(y.rows()), y.c, columns, columns};
  linear_forward_kernel(grid(size), kElementThreads, {size, view(y), view(x0), view(x1), view(residual), view(w), view(b)});
}

void linear_backward(Context& ctx, Grad dx0, Grad dx1, Tensor dw, Tensor db, Tensor dy, Tensor x0, Tensor x1, Tensor w) {
  int rows = int(dy.rows()), columns = x0.c + (x1 ? x1.c : 0);
  check_shape("linear_backward", "w", w, dy.c, 1, 1, columns);
  bool done = !(dx0 || dx1) || wgmma_linear_input_gradient(dx0, dx1, dy, w, x0.c);
  if (auto plan = done ? std::nullopt : mma_linear_input_gradient(dx0, dx1, dy, w, x0.c)) {
    mma_input_gradient(*plan);
  } else if (!done) {
    ProductSize size{rows, columns, dy.c, dy.c};
    linear_input_gradient_kernel(grid(size), kElementThreads, {size, view(dx0), view(dx1), view(dy), view(w), x0.c});
  }
  ProductSize size{dy.c, columns, rows, int(range_size(size_t(rows)))};
  Blocks blocks = grid(size);
  auto hopper = wgmma_linear_weight_gradient(dy, x0, x1);
  auto ampere = hopper.empty() ? mma_linear_weight_gradient(dy, x0, x1) : std::nullopt;
  size_t weights = size_t(dy.c) * columns;
  size_t count = !hopper.empty() ? size_t(ranges(hopper)) : ampere ? size_t(ranges(*ampere)) : blocks.z;
  real* partial = ctx.scratch(count * weights + blocks.z * size_t(dy.c));
  if (!hopper.empty()) {
    wgmma_weight_gradient(hopper, partial);
  } else if (ampere) {
    ampere->partial = partial;
    mma_weight_gradient(*ampere);
  } else {
    linear_weight_gradient_kernel(blocks, kElementThreads, {size, partial, view(dy), view(x0), view(x1)});
  }
  row_sums(matrix(dw.data, 1, int(weights)), matrix(partial, int(count), int(weights)), count);
  if (!db) return;
  Tensor sums = matrix(partial + count * weights, int(blocks.z), dy.c);
  row_sums(sums, dy, size_t(size.k_step));
  row_sums(matrix(db.data, 1, dy.c), sums, blocks.z);
}

}  // namespace phx
