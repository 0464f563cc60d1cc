// Winograd's F(4x4,3x3) for 3x3 convolutions of stride 1 and padding 1: a quarter of the multiplications; of maps enlarged twofold (`zoom`
// 2 instead of 1), which are not formed, about a sixth. Shapes as in conv2d; any sides, any channel counts.
#pragma once
#include "kernels/context.h"
#include "kernels/tensor.h"

namespace phx {

// y = conv(x enlarged) + b + temb + residual; b, temb, residual may be empty.
void winograd_forward(Context&, Tensor y, Tensor x, Tensor temb, Tensor residual, Tensor w, Tensor b, int zoom);
void winograd_data_gradient(Context&, Grad dx, Tensor dy, Tensor w, int zoom);
void winograd_weight_gradient(Context&, Tensor dw, Tensor dy, Tensor x, int zoom);

}  // namespace phx
