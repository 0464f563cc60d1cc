// Launchers of conv2d.
#include "conv2d.cuh"

#include <algorithm>

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

constexpr unsigned kFewShared = 48 << 10;
const Kernel<ConvFew> conv2d_to_many_kernel("conv2d_to_many_kernel", {.shared_bytes = kFewShared}),
    conv2d_from_many_kernel("conv2d_from_many_kernel", {.shared_bytes = kFewShared});
const Kernel<ConvFewWeights> conv2d_few_weights_kernel("conv2d_few_weights_kernel");

size_t few_bytes(const Tensor& few, const Tensor& many) { return size_t(9) * few.c * many.c * sizeof(float); }
bool few_suit(const Tensor& few, const Tensor& many, Conv2d a) {
  return few.c <= kFewMost && mma_addressable(many) && many.c <= 8 * int(kElementThreads) && few_bytes(few, many) <= kFewShared &&
         a.stride == 1 && a.upsample == 1 && a.pad == 1;
}
// Writes `out`, which is one of the two.
void few_to_many(const Kernel<ConvFew>& kernel, const Tensor& few, const Tensor& many, Tensor w, Tensor b, bool gradient, bool w_by_many,
                 bool accumulate) {
  constexpr int kRange = 256;
  kernel({(many.rows() + kRange - 1) / kRange}, kElementThreads,
         {view(few), view(many), view(w), view(b), gradient, w_by_many, accumulate, kRange}, few_bytes(few, many));
}

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
  if (!temb && !residual && few_suit(x, y, a)) return few_to_many(conv2d_to_many_kernel, x, y, w, b, false, true, false);
  if (!temb && !residual && few_suit(y, x, a)) return few_to_many(conv2d_from_many_kernel, y, x, w, b, false, false, false);
  ProductSize size{int(y.rows()), y.c, 9 * x.c, 9 * x.c};
  conv2d_forward_kernel(grid(size), kElementThreads, {size, view(y), view(x), view(temb), view(residual), view(w), view(b), a});
}

void conv2d_backward(Context& ctx, Grad dx, Tensor dtemb, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Conv2d a) {
  check_conv("conv2d_backward", dy, x, w, a);
  bool done = !dx || wgmma_conv2d_input_gradient(dx, dy, w, a);
  if (auto plan = done ? std::nullopt : mma_conv2d_input_gradient(dx, dy, w, a)) {
    mma_input_gradient(*plan);
  } else if (!done && few_suit(dy, dx.t, a)) {
    few_to_many(conv2d_to_many_kernel, dy, dx.t, w, {}, true, false, dx.accumulate);
  } else if (!done && few_suit(dx.t, dy, a)) {
    few_to_many(conv2d_from_many_kernel, dx.t, dy, w, {}, true, true, dx.accumulate);
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
  bool few_in = few_suit(x, dy, a), few_out = !few_in && few_suit(dy, x, a);
  constexpr size_t kFewRange = 256;
  size_t count = !hopper.empty() ? size_t(ranges(hopper)) : ampere ? size_t(ranges(*ampere)) : blocks.z;
  if (few_in || few_out) count = (dy.rows() + kFewRange - 1) / kFewRange;
  real* partial = ctx.scratch(count * weights + size_t(dy.n) * dy.c);
  if (!hopper.empty()) {
    wgmma_weight_gradient(hopper, partial);
  } else if (ampere) {
    ampere->partial = partial;
    mma_weight_gradient(*ampere);
  } else if (few_in || few_out) {
    const Tensor &few = few_in ? x : dy, &many = few_in ? dy : x;
    unsigned pairs = unsigned(many.c / 2), threads = std::min(kElementThreads, (pairs + 31) / 32 * 32);
    conv2d_few_weights_kernel({count, (pairs + threads - 1) / threads}, threads, {view(few), view(many), few_out, int(kFewRange), partial});
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
