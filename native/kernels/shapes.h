// What the ops expect of their tensors, once for all backends: an op's first line. A shape that does not fit throws std::invalid_argument
// with the op, the argument and both shapes. Arguments are those of ops.h.
#pragma once
#include "kernels/ops.h"

namespace phx::shapes {

void conv2d_forward(const Tensor& y, const Tensor& x, const Tensor& temb, const Tensor& residual, const Shortcut&, const Tensor& w,
                    const Tensor& b, Conv2d);
void conv2d_backward(const Grad& dx, const Tensor& dtemb, const Tensor& dw, const Tensor& db, const Tensor& dy, const Tensor& x,
                     const Tensor& w, Conv2d);
void linear_forward(const Tensor& y, const Tensor& x0, const Tensor& x1, const Tensor& residual, const Tensor& w, const Tensor& b);
void linear_backward(const Grad& dx0, const Grad& dx1, const Tensor& dw, const Tensor& db, const Tensor& dy, const Tensor& x0,
                     const Tensor& x1, const Tensor& w);
void group_norm_forward(const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& x0, const Tensor& x1, const Tensor& w,
                        const Tensor& b, const GroupNorm&);
void group_norm_backward(const Grad& dx0, const Grad& dx1, const Tensor& dw, const Tensor& db, const Tensor& dy, const Tensor& mean,
                         const Tensor& rstd, const Tensor& x0, const Tensor& x1, const Tensor& w, const Tensor& b, const GroupNorm&);
void attention_forward(const Tensor& o, const Tensor& lse, const Tensor& qkv, int heads);
void attention_backward(const Tensor& dqkv, const Tensor& d_o, const Tensor& lse, const Tensor& qkv, const Tensor& o, int heads);
void time_embedding_forward(const Tensor& y, const Tensor& t);
void class_embedding_forward(const Tensor& y, const Tensor& x, const Tensor& classes, const Tensor& table);
void class_embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& classes);
void silu_forward(const Tensor& y, const Tensor& x);
void silu_backward(const Grad& dx, const Tensor& dy, const Tensor& x);
void pad_forward(const Tensor& y, const Tensor& x);
void pad_backward(const Grad& dx, const Tensor& dy);
void noise_batch(const Tensor& xt, const Tensor& target, const Tensor& weight, const Tensor& t, const NoiseBatch&);
void mse_forward(const Tensor& loss, const Tensor& y, const Tensor& target, const Tensor& weight);
void mse_backward(const Tensor& dy, const Tensor& y, const Tensor& target, const Tensor& weight);
void sampler_step(const Tensor& x, const Tensor& x0_prev, const Tensor& m);
void convert(const Tensor& y, const Tensor& x);
void add(const Tensor& y, const Tensor& x);
void adam_step(const Tensor& rounded, size_t count);
void next_record(size_t bytes);
void server_step(const real* v, ServerStep);

}  // namespace phx::shapes
