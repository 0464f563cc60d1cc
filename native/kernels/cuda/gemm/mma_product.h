// Products on Ampere's tensor cores, for the launchers of conv2d and linear; the tensors are such as the table (dispatch.cuda.h) gives to
// this family.
#pragma once
#include "kernels/cuda/gemm/mma_product.cuh"
#include "kernels/ops.h"

namespace phx {

void mma_conv2d_forward(Tensor y, Tensor x, Tensor temb, Tensor residual, const Shortcut&, Tensor w, Tensor b, Conv2d);
void mma_conv2d_input_gradient(Grad dx, Tensor dy, Tensor w, Conv2d);
void mma_linear_forward(Tensor y, Tensor x0, Tensor x1, Tensor residual, Tensor w, Tensor b);
void mma_linear_input_gradient(Grad dx0, Grad dx1, Tensor dy, Tensor w, int columns0);
// A plan first, since the memory of its parts, of ranges() ranges, is the caller's. x1: of linear layers only.
MmaWeightGradient mma_conv2d_weight_gradient(Tensor dy, Tensor x, Conv2d);
MmaWeightGradient mma_linear_weight_gradient(Tensor dy, Tensor x0, Tensor x1);
inline int ranges(const MmaWeightGradient& g) { return ceil_div(g.pixels, g.range); }
void mma_weight_gradient(MmaWeightGradient, GradientParts);

}  // namespace phx
