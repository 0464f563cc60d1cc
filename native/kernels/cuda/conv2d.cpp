// Launchers of conv2d.
#include "kernels/cuda/conv2d.cuh"
#include "kernels/shapes.h"

#include <algorithm>

#include "kernels/cuda/gemm/dispatch.h"
#include "kernels/cuda/gemm/mma_product.h"
#include "kernels/cuda/gemm/wgmma_product.h"
#include "kernels/cuda/runtime/reductions.h"
#include "kernels/cuda/runtime/side_stream.h"

namespace phx {
namespace {

const Kernel<ConvForward> conv2d_forward_kernel("conv2d_forward_kernel");
const Kernel<ConvInputGradient> conv2d_input_gradient_kernel("conv2d_input_gradient_kernel");
const Kernel<ConvWeightGradient> conv2d_weight_gradient_kernel("conv2d_weight_gradient_kernel");

const Kernel<ConvNarrow> conv2d_to_wide_kernel("conv2d_to_wide_kernel", {.shared_bytes = kNarrowShared}),
    conv2d_from_wide_kernel("conv2d_from_wide_kernel", {.shared_bytes = kNarrowShared});
const Kernel<ConvNarrowWeights> conv2d_narrow_weights_kernel("conv2d_narrow_weights_kernel", {.shared_bytes = kNarrowShared});

const Kernel<ConvFold> conv2d_fold_kernel("conv2d_fold_kernel");
const Kernel<ConvUnfold> conv2d_unfold_kernel("conv2d_unfold_kernel");

// Whether the products of an enlarged image go over its own pixels, by folded weights: a product's 9 taps are then 4, and the 36 of its
// gradients 16.
bool folds(Family family, Conv2d a) { return a.upsample == 2 && (family == Family::wgmma || family == Family::mma); }
// In scratch memory, which the kernels that read it are started with before it is asked for again.
Tensor fold(Context& ctx, const Tensor& w) {
  size_t count = size_t(w.n) * kFolded * kFolded * w.c;
  Tensor folded = tensor(ctx.scratch(reals_of(Type::bf16, count)), w.n, kFolded, kFolded, w.c, Type::bf16);
  conv2d_fold_kernel(cover(count), kElementThreads, {view(w), view(folded)});
  return folded;
}

// out from in, one of which has few channels. `b` may be empty; gradient: w is read the other way round, from its out-channels to its
// in-channels.
void convolve_narrow(Grad out, const Tensor& in, const Tensor& w, const Tensor& b, bool gradient) {
  bool to_wide = in.c < out.t.c;
  const Tensor &narrow = to_wide ? in : out.t, &wide = to_wide ? out.t : in;
  (to_wide ? conv2d_to_wide_kernel : conv2d_from_wide_kernel)(
      {ceil_div(wide.rows(), kNarrowRange)}, kElementThreads,
      {view(narrow), view(wide), view(w), view(b), gradient, to_wide != gradient, out.accumulate},
      narrow_bytes(narrow.c, wide.c, narrow.w));
}

}  // namespace

void conv2d_forward(Context& ctx, Tensor y, Tensor x, Tensor temb, Tensor residual, Shortcut shortcut, Tensor w, Tensor b, Conv2d a) {
  shapes::conv2d_forward(y, x, temb, residual, shortcut, w, b, a);
  auto family_now = [&] { return family_of({Pass::forward, y, x, {}, w, temb, residual, a}); };
  if (shortcut.x0 && !adds(family_now(), shortcut, a)) {
    linear_forward(ctx, y, shortcut.x0, shortcut.x1, residual, shortcut.w, shortcut.b);
    residual = y;
    shortcut = {};
  }
  Family family = family_now();
  if (folds(family, a)) w = fold(ctx, w);
  switch (family) {
    case Family::wgmma:
      return wgmma_conv2d_forward(y, x, temb, residual, shortcut, w, b, a);
    case Family::mma:
      return mma_conv2d_forward(y, x, temb, residual, shortcut, w, b, a);
    case Family::narrow:
      return convolve_narrow({y}, x, w, b, false);
    case Family::generic:
      ProductSize size{int(y.rows()), y.c, 9 * x.c, 9 * x.c};
      conv2d_forward_kernel(grid(size), kElementThreads, {size, view(y), view(x), view(temb), view(residual), view(w), view(b), a});
  }
}

namespace {

void input_gradient(Context& ctx, Grad dx, Tensor dy, Tensor w, Conv2d a) {
  Family family = family_of({Pass::input_gradient, dy, dx.t, {}, w, {}, {}, a});
  if (folds(family, a)) w = fold(ctx, w);
  switch (family) {
    case Family::wgmma:
      return wgmma_conv2d_input_gradient(dx, dy, w, a);
    case Family::mma:
      return mma_conv2d_input_gradient(dx, dy, w, a);
    case Family::narrow:
      return convolve_narrow(dx, dy, w, {}, true);
    case Family::generic:
      int depth = a.upsample * a.upsample * 9 * dy.c;
      ProductSize size{int(dx.t.rows()), dx.t.c, depth, depth};
      conv2d_input_gradient_kernel(grid(size), kElementThreads, {size, view(dx), view(dy), view(w), a});
  }
}

// The parts of dw and db; returns how many ranges of pixels. `reserve(ranges)` is the memory for them.
template <class Reserve>
size_t weight_gradient(Family family, const Tensor& dy, const Tensor& x, Conv2d a, Reserve reserve) {
  switch (family) {
    case Family::wgmma: {
      auto plan = plan_conv2d_weight_gradient(dy, x, a);
      wgmma_weight_gradient(plan, reserve(ranges(plan)));
      return size_t(ranges(plan));
    }
    case Family::mma: {
      auto plan = mma_conv2d_weight_gradient(dy, x, a);
      mma_weight_gradient(plan, reserve(ranges(plan)));
      return size_t(ranges(plan));
    }
    case Family::narrow: {
      bool narrow_out = dy.c < x.c;
      const Tensor &narrow = narrow_out ? dy : x, &wide = narrow_out ? x : dy;
      unsigned pairs = unsigned(wide.c / 2);
      size_t count = ceil_div(dy.rows(), kNarrowRange);
      conv2d_narrow_weights_kernel({count, ceil_div(pairs, kElementThreads)}, kElementThreads,
                                   {view(narrow), view(wide), narrow_out, reserve(count)}, narrow_bytes(narrow.c, wide.c, narrow.w));
      return count;
    }
    case Family::generic:
      break;
  }
  ProductSize size{dy.c, 9 * x.c + 1, int(dy.rows()), int(range_size(dy.rows()))};
  Blocks blocks = grid(size);
  conv2d_weight_gradient_kernel(blocks, kElementThreads, {size, reserve(blocks.z), view(dy), view(x), a});
  return blocks.z;
}

}  // namespace

void conv2d_backward(Context& ctx, Grad dx, Tensor dtemb, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Conv2d a) {
  shapes::conv2d_backward(dx, dtemb, dw, db, dy, x, w, a);
  SideStream side(defers_reductions(ctx));
  if (dx) input_gradient(ctx, dx, dy, w, a);
  side.start();
  Family family = family_of({Pass::weight_gradient, dy, x, {}, {}, {}, {}, a});
  bool folded = family == Family::wgmma && folds(family, a);
  size_t weights = folded ? dw.size() / 9 * kFolded * kFolded : dw.size(), phases = folded ? 4 : 1;
  GradientParts parts{};
  size_t ranges = weight_gradient(family, dy, x, a,
                                  [&](size_t ranges) { return parts = gradient_parts(ctx, ranges * weights, ranges * phases * dy.c); });
  if (folded)
    conv2d_unfold_kernel(cover(dw.size()), kElementThreads, {int(ranges), parts.weights, view(dw)});
  else
    gradient_sum(ctx, dw.data, parts.weights, ranges, weights);
  gradient_sum(ctx, db.data, parts.biases, ranges * phases, size_t(dy.c));
  if (dtemb) row_sums(dtemb, dy, size_t(dy.h) * dy.w);
  end_gradient_sums(ctx);
}

}  // namespace phx
