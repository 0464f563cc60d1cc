// Launchers of group_norm.
#include "group_norm.cuh"

#include "check.h"
#include "dropout.h"
#include "launch.cuda.h"
#include "ops.h"
#include "reduce.cuda.h"

namespace phx {
namespace {

const Kernel<GroupNormForward> group_norm_forward_kernel("group_norm_forward_kernel");
const Kernel<GroupNormBackward> group_norm_input_gradient_kernel("group_norm_input_gradient_kernel");
const Kernel<GroupNormBackward> group_norm_parameters_kernel("group_norm_parameters_kernel");

DropoutWords words(Dropout d) {
  DropoutRule rule(d);
  return {d.draw, d.layer, rule.threshold, rule.factor};
}

}  // namespace

void group_norm_forward(Context&, Tensor y, Tensor mean, Tensor rstd, Tensor x0, Tensor x1, Tensor w, Tensor b, GroupNorm a) {
  int channels = x0.c + (x1 ? x1.c : 0);
  check(channels % a.groups == 0, "group_norm_forward", "channels that the groups divide");
  check_shape("group_norm_forward", "y", y, x0.n, x0.h, x0.w, channels);
  group_norm_forward_kernel(
      {size_t(y.n) * a.groups}, kElementThreads,
      {view(y), view(mean), view(rstd), view(x0), view(x1), view(w), view(b), a.groups, a.silu, a.eps, words(a.dropout)});
}

void group_norm_backward(Context& ctx, Grad dx0, Grad dx1, Tensor dw, Tensor db, Tensor dy, Tensor mean, Tensor rstd, Tensor x0, Tensor x1,
                         Tensor w, Tensor b, GroupNorm a) {
  int channels = x0.c + (x1 ? x1.c : 0);
  check(channels % a.groups == 0, "group_norm_backward", "channels that the groups divide");
  check_shape("group_norm_backward", "dy", dy, x0.n, x0.h, x0.w, channels);
  size_t each = size_t(dy.n) * channels;
  real* partial = ctx.scratch(2 * each);
  Tensor weights = matrix(partial, dy.n, channels), biases = matrix(partial + each, dy.n, channels);
  GroupNormBackward parameters{view(dx0), view(dx1), view(weights), view(biases), view(dy), view(mean), view(rstd),
                               view(x0),  view(x1),  view(w),       view(b),      a.groups, a.silu,     words(a.dropout)};
  group_norm_parameters_kernel({size_t(dy.n), unsigned(channels + 31) / 32}, kElementThreads, parameters);
  row_sums(matrix(dw.data, 1, channels), weights, size_t(dy.n));
  row_sums(matrix(db.data, 1, channels), biases, size_t(dy.n));
  if (dx0 || dx1) group_norm_input_gradient_kernel({size_t(dy.n) * a.groups}, kElementThreads, parameters);
}

}  // namespace phx
