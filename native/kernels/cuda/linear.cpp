// Launchers of linear.
#include "kernels/cuda/linear.cuh"
#include "kernels/shapes.h"

#include "kernels/cuda/gemm/dispatch.h"
#include "kernels/cuda/gemm/mma_product.h"
#include "kernels/cuda/gemm/wgmma_product.h"
#include "kernels/cuda/runtime/reductions.h"
#include "kernels/cuda/runtime/side_stream.h"

namespace phx {
namespace {

const Kernel<LinearForward> linear_forward_kernel("linear_forward_kernel");
const Kernel<LinearInputGradient> linear_input_gradient_kernel("linear_input_gradient_kernel");
const Kernel<LinearWeightGradient> linear_weight_gradient_kernel("linear_weight_gradient_kernel");

}  // namespace

void linear_forward(Context&, Tensor y, Tensor x0, Tensor x1, Tensor residual, Tensor w, Tensor b) {
  shapes::linear_forward(y, x0, x1, residual, w, b);
  int columns = x0.c + (x1 ? x1.c : 0);
  switch (family_of({Pass::forward, y, x0, x1, w, {}, residual, {}})) {
    case Family::wgmma:
      return wgmma_linear_forward(y, x0, x1, residual, w, b);
    case Family::mma:
      return mma_linear_forward(y, x0, x1, residual, w, b);
    default:
      ProductSize size{int(y.rows()), y.c, columns, columns};
      linear_forward_kernel(grid(size), kElementThreads, {size, view(y), view(x0), view(x1), view(residual), view(w), view(b)});
  }
}

namespace {

void input_gradient(Grad dx0, Grad dx1, Tensor dy, Tensor w, int columns0) {
  switch (family_of({Pass::input_gradient, dy, dx0.t, dx1.t, w, {}, {}, {}})) {
    case Family::wgmma:
      return wgmma_linear_input_gradient(dx0, dx1, dy, w, columns0);
    case Family::mma:
      return mma_linear_input_gradient(dx0, dx1, dy, w, columns0);
    default:
      ProductSize size{int(dy.rows()), w.c, dy.c, dy.c};
      linear_input_gradient_kernel(grid(size), kElementThreads, {size, view(dx0), view(dx1), view(dy), view(w), columns0});
  }
}

// The parts of dw, and of db where `size` has a column for it; returns how many ranges of rows. `reserve(ranges)` is the memory for them.
template <class Reserve>
size_t weight_gradient(const Tensor& dy, const Tensor& x0, const Tensor& x1, ProductSize size, Reserve reserve) {
  switch (family_of({Pass::weight_gradient, dy, x0, x1, {}, {}, {}, {}})) {
    case Family::wgmma: {
      auto plan = plan_linear_weight_gradient(dy, x0, x1);
      wgmma_weight_gradient(plan, reserve(ranges(plan)));
      return size_t(ranges(plan));
    }
    case Family::mma: {
      auto plan = mma_linear_weight_gradient(dy, x0, x1);
      mma_weight_gradient(plan, reserve(ranges(plan)));
      return size_t(ranges(plan));
    }
    default:
      Blocks blocks = grid(size);
      linear_weight_gradient_kernel(blocks, kElementThreads, {size, reserve(blocks.z), view(dy), view(x0), view(x1)});
      return blocks.z;
  }
}

}  // namespace

void linear_backward(Context& ctx, Grad dx0, Grad dx1, Tensor dw, Tensor db, Tensor dy, Tensor x0, Tensor x1, Tensor w) {
  shapes::linear_backward(dx0, dx1, dw, db, dy, x0, x1, w);
  int rows = int(dy.rows()), columns = x0.c + (x1 ? x1.c : 0);
  SideStream side(defers_reductions(ctx));
  if (dx0 || dx1) input_gradient(dx0, dx1, dy, w, x0.c);
  side.start();
  ProductSize size{dy.c, db ? columns + 1 : columns, rows, int(range_size(size_t(rows)))};
  size_t weights = size_t(dy.c) * columns, biases = db ? size_t(dy.c) : 0;
  GradientParts parts{};
  size_t ranges =
      weight_gradient(dy, x0, x1, size, [&](size_t ranges) { return parts = gradient_parts(ctx, ranges * weights, ranges * biases); });
  gradient_sum(ctx, dw.data, parts.weights, ranges, weights);
  if (db) gradient_sum(ctx, db.data, parts.biases, ranges, biases);
  end_gradient_sums(ctx);
}

}  // namespace phx
