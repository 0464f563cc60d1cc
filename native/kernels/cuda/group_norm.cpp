// Launchers of group_norm.
#include "kernels/cuda/group_norm.cuh"

#include <numeric>

#include "kernels/cuda/runtime/launch.h"
#include "kernels/cuda/runtime/reductions.h"
#include "kernels/dropout.h"
#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {
namespace {

const Kernel<GroupNormForward> group_norm_forward_kernel("group_norm_forward_kernel");
const Kernel<GroupNormBackward> group_norm_input_gradient_kernel("group_norm_input_gradient_kernel");
const Kernel<GroupNormBackward> group_norm_parameters_kernel("group_norm_parameters_kernel");

constexpr unsigned kMaxShared = 227 << 10;  // of any architecture
const Kernel<GroupNormSlabForward> slab_forward_kernel("group_norm_slab_forward_kernel", {.shared_bytes = kMaxShared});
const Kernel<GroupNormSlabBackward> slab_backward_kernel("group_norm_slab_backward_kernel", {.shared_bytes = kMaxShared});

// Channels of a slab, 0 where there is none: whole groups, a multiple of 8, so that every row is read in whole pieces of 16 bytes, and if
// it can be of 16, for memory comes in 32 bytes. About 32 of them, fewer if two blocks then do not fit side by side.
int slab_width(const Tensor& like, int groups, std::initializer_list<Tensor> tensors) {
  for (const Tensor& t : tensors)
    if (t && !is_aligned_bf16(t)) return 0;
  constexpr int kWish = 32, kMax = 8 * int(kElementThreads);
  int unit = std::lcm(like.c / groups, 8), whole = std::lcm(unit, 16), pixels = like.h * like.w;
  auto fits = [&](int width, size_t limit) { return width <= kMax && slab_bytes(pixels, width) <= limit; };
  if (!fits(unit, size_t(max_shared_bytes()))) return 0;
  if (fits(whole, size_t(max_shared_bytes()))) unit = whole;
  int width = unit;
  while (width < kWish && width < like.c && fits(width + unit, kMaxShared / 2)) width += unit;
  return width;
}

DropoutWords words(Dropout d) {
  DropoutRule rule(d);
  return {d.draw, d.layer, rule.threshold, rule.factor};
}

}  // namespace

void group_norm_forward(Context&, Tensor y, Tensor mean, Tensor rstd, Tensor x0, Tensor x1, Tensor w, Tensor b, GroupNorm a) {
  shapes::group_norm_forward(y, mean, rstd, x0, x1, w, b, a);
  int channels = x0.c + (x1 ? x1.c : 0);
  GroupNormForward parameters{view(y), view(mean), view(rstd), view(x0), view(x1),        view(w),
                              view(b), a.groups,   a.silu,     a.eps,    words(a.dropout)};
  if (int width = slab_width(y, a.groups, {y, x0, x1}))
    slab_forward_kernel({size_t(y.n), unsigned(ceil_div(channels, width))}, kElementThreads, {parameters, width},
                        slab_bytes(y.h * y.w, width));
  else
    group_norm_forward_kernel({size_t(y.n) * a.groups}, kElementThreads, parameters);
}

void group_norm_backward(Context& ctx, Grad dx0, Grad dx1, Tensor dw, Tensor db, Tensor dy, Tensor mean, Tensor rstd, Tensor x0, Tensor x1,
                         Tensor w, Tensor b, GroupNorm a) {
  shapes::group_norm_backward(dx0, dx1, dw, db, dy, mean, rstd, x0, x1, w, b, a);
  int channels = x0.c + (x1 ? x1.c : 0);
  size_t each = size_t(dy.n) * channels;
  GradientParts parts = gradient_parts(ctx, each, each);
  Tensor weights = matrix(parts.weights, dy.n, channels), biases = matrix(parts.biases, dy.n, channels);
  GroupNormBackward parameters{view(dx0), view(dx1), view(weights), view(biases), view(dy), view(mean), view(rstd),
                               view(x0),  view(x1),  view(w),       view(b),      a.groups, a.silu,     words(a.dropout)};
  int width = slab_width(dy, a.groups, {dy, x0, x1, dx0.t, dx1.t});
  if (width)
    slab_backward_kernel({size_t(dy.n), unsigned(ceil_div(channels, width))}, kElementThreads, {parameters, width},
                         slab_bytes(dy.h * dy.w, width));
  else
    group_norm_parameters_kernel({size_t(dy.n), unsigned(ceil_div(channels, 32))}, kElementThreads, parameters);
  gradient_sum(ctx, dw.data, parts.weights, size_t(dy.n), size_t(channels));
  gradient_sum(ctx, db.data, parts.biases, size_t(dy.n), size_t(channels));
  end_gradient_sums(ctx);
  if (!width && (dx0 || dx1)) group_norm_input_gradient_kernel({size_t(dy.n) * a.groups}, kElementThreads, parameters);
}

}  // namespace phx
