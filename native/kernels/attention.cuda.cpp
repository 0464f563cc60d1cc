// Launchers of attention.
#include "attention.cuh"

#include <cmath>

#include "check.h"
#include "launch.cuda.h"
#include "ops.h"

namespace phx {

static const Kernel<AttentionForward> attention_forward_kernel("attention_forward_kernel");
static const Kernel<AttentionBackward> attention_query_gradient_kernel("attention_query_gradient_kernel");
static const Kernel<AttentionBackward> attention_key_gradient_kernel("attention_key_gradient_kernel");

static real scale_of(const Tensor& o, int heads) { return real(1 / std::sqrt(double(o.c / heads))); }

void attention_forward(Context&, Tensor o, Tensor lse, Tensor qkv, int heads) {
  check(heads > 0 && qkv.c == 3 * o.c && o.c % heads == 0, "attention_forward", "qkv of 3C channels and C a multiple of heads");
  attention_forward_kernel({o.rows() * heads}, kElementThreads, {view(o), view(lse), view(qkv), heads, scale_of(o, heads)});
}

void attention_backward(Context& ctx, Tensor dqkv, Tensor d_o, Tensor lse, Tensor qkv, Tensor o, int heads) {
  check(heads > 0 && qkv.c == 3 * o.c && o.c % heads == 0, "attention_backward", "qkv of 3C channels and C a multiple of heads");
  real* delta = ctx.scratch(o.rows() * heads);
  AttentionBackward parameters{view(dqkv), view(d_o), view(lse), view(qkv), view(o), delta, heads, scale_of(o, heads)};
  attention_query_gradient_kernel({o.rows() * heads}, kElementThreads, parameters);
  attention_key_gradient_kernel({o.rows() * heads}, kElementThreads, parameters);
}

}  // namespace phx
