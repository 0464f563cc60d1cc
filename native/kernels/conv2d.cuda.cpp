// Launchers of conv2d.
#include "conv2d.cuh"

#include <algorithm>

#include "beside.cuda.h"
#include "check.h"
#include "dispatch.cuda.h"
#include "mma_product.cuda.h"
#include "reduce.cuda.h"
#include "wgmma_product.cuda.h"

namespace phx {
namespace {

const Kernel<ConvForward> conv2d_forward_kernel("conv2d_forward_kernel");
const Kernel<ConvInputGradient> conv2d_input_gradient_kernel("conv2d_input_gradient_kernel");
const Kernel<ConvWeightGradient> conv2d_weight_gradient_kernel("conv2d_weight_gradient_kernel");

const Kernel<ConvFew> conv2d_to_many_kernel("conv2d_to_many_kernel", {.shared_bytes = kFewShared}),
    conv2d_from_many_kernel("conv2d_from_many_kernel", {.shared_bytes = kFewShared});
const Kernel<ConvFewWeights> conv2d_few_weights_kernel("conv2d_few_weights_kernel", {.shared_bytes = kFewShared});

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
void few(Grad out, const Tensor& in, const Tensor& w, const Tensor& b, bool gradient) {
  bool to_many = in.c < out.t.c;
  const Tensor &few = to_many ? in : out.t, &many = to_many ? out.t : in;
  (to_many ? conv2d_to_many_kernel : conv2d_from_many_kernel)(
      {(many.rows() + kFewRange - 1) / kFewRange}, kElementThreads,
      {view(few), view(many), view(w), view(b), gradient, to_many != gradient, out.accumulate}, few_bytes(few.c, many.c, few.w));
}

void check_conv(const char* op, const Tensor& y, const Tensor& x, const Tensor& w, Conv2d a) {
  check(a.stride == 1 || a.stride == 2, op, "stride 1 or 2");
  check_shape(op, "y", y, x.n, x.h * a.upsample / a.stride, x.w * a.upsample / a.stride, w.n);
  check_shape(op, "w", w, y.c, 3, 3, x.c);
}

}  // namespace

void conv2d_forward(Context& ctx, Tensor y, Tensor x, Tensor temb, Tensor residual, Shortcut shortcut, Tensor w, Tensor b, Conv2d a) {
  check_conv("conv2d_forward", y, x, w, a);
  if (shortcut.x0) {
    check_shape("conv2d_forward", "skip_w", shortcut.w, y.c, 1, 1, shortcut.x0.c + (shortcut.x1 ? shortcut.x1.c : 0));
    check(shortcut.x0.rows() == y.rows(), "conv2d_forward", "as many rows in skip0 as in y");
  }
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
    case Family::few:
      return few({y}, x, w, b, false);
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
    case Family::few:
      return few(dx, dy, w, {}, true);
    case Family::generic:
      int depth = a.upsample * a.upsample * 9 * dy.c;
      ProductSize size{int(dx.t.rows()), dx.t.c, depth, depth};
      conv2d_input_gradient_kernel(grid(size), kElementThreads, {size, view(dx), view(dy), view(w), a});
  }
}

// The parts of dw and db; returns how many ranges of pixels. `room(ranges)` is the memory for them.
template <class Room>
size_t weight_gradient(Family family, const Tensor& dy, const Tensor& x, Conv2d a, Room room) {
  switch (family) {
    case Family::wgmma: {
      auto plan = plan_conv2d_weight_gradient(dy, x, a);
      wgmma_weight_gradient(plan, room(ranges(plan)));
      return size_t(ranges(plan));
    }
    case Family::mma: {
      auto plan = mma_conv2d_weight_gradient(dy, x, a);
      mma_weight_gradient(plan, room(ranges(plan)));
      return size_t(ranges(plan));
    }
    case Family::few: {
      bool few_out = dy.c < x.c;
      const Tensor &few = few_out ? dy : x, &many = few_out ? x : dy;
      unsigned pairs = unsigned(many.c / 2);
      size_t count = (dy.rows() + kFewRange - 1) / kFewRange;
      conv2d_few_weights_kernel({count, (pairs + kElementThreads - 1) / kElementThreads}, kElementThreads,
                                {view(few), view(many), few_out, room(count)}, few_bytes(few.c, many.c, few.w));
      return count;
    }
    case Family::generic:
      break;
  }
  ProductSize size{dy.c, 9 * x.c + 1, int(dy.rows()), int(range_size(dy.rows()))};
  Blocks blocks = grid(size);
  conv2d_weight_gradient_kernel(blocks, kElementThreads, {size, room(blocks.z), view(dy), view(x), a});
  return blocks.z;
}

}  // namespace

void conv2d_backward(Context& ctx, Grad dx, Tensor dtemb, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Conv2d a) {
  check_conv("conv2d_backward", dy, x, w, a);
  Beside beside(puts_off(ctx));
  if (dx) input_gradient(ctx, dx, dy, w, a);
  beside.start();
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
