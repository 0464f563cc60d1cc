// Launchers of conv2d.
#include "conv2d.cuh"

#include "check.h"
#include "launch.cuda.h"
#include "mma_product.cuda.h"
#include "reduce.cuda.h"
#include "wgmma_product.cuda.h"

namespace phx {
namespace {

const Kernel<ConvForward> conv2d_forward_kernel("conv2d_forward_kernel");
const Kernel<ConvInputGradient> conv2d_input_gradient_kernel("conv2d_input_gradient_kernel");
const Kernel<ConvWeightGradient> conv2d_weight_gradient_kernel("conv2d_weight_gradient_kernel");

unsigned tiles(int count) { return unsigned(count + kTile - 1) / kTile; }
Blocks grid(ProductSize size) { return {tiles(size.m), tiles(size.n), unsigned((size.k + size.k_step - 1) / size.k_step)}; }

void check_conv(const char* op, const Tensor& y, const Tensor& x, const Tensor& w, Conv2d a) {
  check(a.stride == 1 || a.stride == 2, op, "stride 1 or 2");
  check_shape(op, "y", y, x.n, x.h * a.upsample / a.stride, x.w * a.upsample / a.stride, w.n);
  check_shape(op, "w", w, y.c, 3, 3, x.c);
}

}  // namespace

void conv2d_forward(Context&, Tensor y, Tensor x, Tensor temb, Tensor residual, Tensor w, Tensor b, Conv2d a) {
  check_conv("conv2d_forward", y, x, w, a);
  if (wgmma_conv2d_forward(y, x, temb, residual, w, b, a)) return;
  if (auto plan = mma_conv2d_forward(y, x, temb, residual, w, b, a)) return mma_forward(*plan);
  ProductSize size{int(y.rows()), y.c, 9 * x.c, 9 * x.c};
  conv2d_forward_kernel(grid(size), kElementThreads, {size, view(y), view(x), view(temb), view(residual), view(w), view(b), a});
}

void conv2d_backward(Context& ctx, Grad dx, Tensor dtemb, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Conv2d a) {
  check_conv("conv2d_backward", dy, x, w, a);
  bool done = !dx || wgmma_conv2d_input_gradient(dx, dy, w, a);
  if (auto plan = done ? std::nullopt : mma_conv2d_input_gradient(dx, dy, w, a)) {
    mma_input_gradient(*plan);
  } else if (!done) {
    int depth = a.upsample * a.upsample * 9 * dy.c;
    ProductSize size{int(x.rows()), x.c, depth, depth};
    conv2d_input_gradient_kernel(grid(size), kElementThreads, {size, view(dx), view(dy), view(w), a});
  }
  ProductSize size{dy.c, 9 * x.c, int(dy.rows()), int(range_size(dy.rows()))};
  Blocks blocks = grid(size);
  auto hopper = wgmma_conv2d_weight_gradient(dy, x, a);
  auto ampere = hopper.empty() ? mma_conv2d_weight_gradient(dy, x, a) : std::nullopt;
  size_t weights = dw.size();
  size_t count = !hopper.empty() ? size_t(ranges(hopper)) : ampere ? size_t(ranges(*ampere)) : blocks.z;
  real* partial = ctx.scratch(count * weights + size_t(dy.n) * dy.c);
  if (!hopper.empty()) {
    wgmma_weight_gradient(hopper, partial);
  } else if (ampere) {
    ampere->partial = partial;
    mma_weight_gradient(*ampere);
  } else {
    conv2d_weight_gradient_kernel(blocks, kElementThreads, {size, partial, view(dy), view(x), a});
  }
  row_sums(matrix(dw.data, 1, int(weights)), matrix(partial, int(count), int(weights)), count);
  Tensor by_image = matrix(partial + count * weights, dy.n, dy.c);
  row_sums(by_image, dy, size_t(dy.h) * dy.w);
  if (dtemb) row_sums(dtemb, by_image, 1);
  row_sums(matrix(db.data, 1, dy.c), by_image, size_t(dy.n));
}

}  // namespace phx
