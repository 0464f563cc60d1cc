// Products on Ampere's tensor cores, for the launchers of conv2d and linear: plans, empty where the tensors do not suit them.
#pragma once
#include <optional>

#include "mma_product.cuh"
#include "ops.h"

namespace phx {

// The side of the tiles that PHOENIX_MMA_TILE asks for, 64 or 128, on these kernels and not on Hopper's; 0: by the shapes.
int forced_mma_tile();

// bf16, with channels and distances that are whole 16-byte pieces.
bool mma_addressable(const Tensor& t);

std::optional<MmaProduct> mma_conv2d_forward(Tensor y, Tensor x, Tensor temb, Tensor residual, Tensor w, Tensor b, Conv2d);
std::optional<MmaProduct> mma_conv2d_input_gradient(Grad dx, Tensor dy, Tensor w, Conv2d);
std::optional<MmaProduct> mma_linear_forward(Tensor y, Tensor x0, Tensor x1, Tensor residual, Tensor w, Tensor b);
std::optional<MmaProduct> mma_linear_input_gradient(Grad dx0, Grad dx1, Tensor dy, Tensor w, int columns0);
// Its `partial` is to be set to ranges() · rows · columns floats. x1: of linear layers only.
std::optional<MmaWeightGradient> mma_conv2d_weight_gradient(Tensor dy, Tensor x, Conv2d);
std::optional<MmaWeightGradient> mma_linear_weight_gradient(Tensor dy, Tensor x0, Tensor x1);
inline int ranges(const MmaWeightGradient& g) { return (g.pixels + g.range - 1) / g.range; }

void mma_forward(const MmaProduct&);
void mma_input_gradient(const MmaProduct&);
void mma_weight_gradient(const MmaWeightGradient&);

}  // namespace phx
