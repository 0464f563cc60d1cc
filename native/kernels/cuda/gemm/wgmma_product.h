// Products on Hopper's tensor cores, for the launchers of conv2d and linear; the tensors are such as the table (dispatch.cuda.h) gives to
// this family.
#pragma once
#include "kernels/cuda/gemm/wgmma_plan.h"

namespace phx {

void wgmma_conv2d_forward(Tensor y, Tensor x, Tensor temb, Tensor residual, const Shortcut&, Tensor w, Tensor b, Conv2d);
void wgmma_conv2d_input_gradient(Grad dx, Tensor dy, Tensor w, Conv2d);
void wgmma_linear_forward(Tensor y, Tensor x0, Tensor x1, Tensor residual, Tensor w, Tensor b);
void wgmma_linear_input_gradient(Grad dx0, Grad dx1, Tensor dy, Tensor w, int columns0);
// Of a plan (wgmma_plan.h); the memory of its parts is the caller's.
inline int ranges(const WgmmaPlan<WgmmaWeightGradient>& plan) { return plan.parameters.ranges; }
void wgmma_weight_gradient(WgmmaPlan<WgmmaWeightGradient>, GradientParts);

}  // namespace phx
