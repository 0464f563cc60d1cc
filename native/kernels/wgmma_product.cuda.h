// Products on Hopper's tensor cores, for the launchers of conv2d and linear. Each says whether it took the work: it does where the device is one of
// compute capability 9.0 and the tensors are bf16 that tensor copies can address, of sides that tiles cover (cover_pixels).
#pragma once
#include "wgmma_plan.h"

namespace phx {

bool wgmma_conv2d_forward(Tensor y, Tensor x, Tensor temb, Tensor residual, Tensor w, Tensor b, Conv2d);
bool wgmma_conv2d_input_gradient(Grad dx, Tensor dy, Tensor w, Conv2d);
bool wgmma_linear_forward(Tensor y, Tensor x0, Tensor x1, Tensor residual, Tensor w, Tensor b);
bool wgmma_linear_input_gradient(Grad dx0, Grad dx1, Tensor dy, Tensor w, int columns0);
// Plans, empty where it does not take the work; `partial` of ranges · rows · columns floats is the caller's.
WgmmaWeightGradients wgmma_conv2d_weight_gradient(Tensor dy, Tensor x, Conv2d);
WgmmaWeightGradients wgmma_linear_weight_gradient(Tensor dy, Tensor x0, Tensor x1);
inline int ranges(const WgmmaWeightGradients& plans) { return plans[0].parameters.ranges; }
void wgmma_weight_gradient(const WgmmaWeightGradients&, float* partial);

}  // namespace phx
