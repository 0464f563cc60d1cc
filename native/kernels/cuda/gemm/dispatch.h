// Which kernels compute a convolution or a linear layer, forward and backward: the one table (dispatch.cuda.cpp), for the launchers of
// conv2d and linear.
// It looks at the architecture, types and shapes alone, never at a measurement, so that equal seeds give equal bits.
// test/golden/dispatch.txt lists what it says of two networks. How a family cuts its work into tiles follows from the shapes too, and
// stands with its kernels.
#pragma once
#include <optional>

#include "kernels/cuda/gemm/product.cuh"
#include "kernels/cuda/runtime/launch.h"
#include "kernels/ops.h"

namespace phx {

enum class Pass { forward, input_gradient, weight_gradient };

// The product behind an op, by the tensors that it reads and writes: in the gradients y is dy, in the inputs' gradient x0 and x1 are dx0
// and dx1.
struct Product {
  Pass pass;
  Tensor y, x0, x1;
  Tensor w, temb, residual;      // empty where the pass has none
  std::optional<Conv2d> window;  // none: a linear layer
};

enum class Family {
  wgmma,   // Hopper's tensor cores: wgmma_product.cu
  mma,     // Ampere's: mma_product.cu
  narrow,  // convolutions from or to an image's channels: conv2d_narrow.cu
  generic  // any type and shape: product.cuh
};

// architecture: of the kernels, 80 or 90.
Family family_of(const Product&, int architecture);
// On this device. PHOENIX_MMA_TILE asks for the kernels of 80, whatever the device.
Family family_of(const Product&);

// Whether a convolution's kernels of this family add a shortcut in the same sums.
bool adds(Family, const Shortcut&, Conv2d);

// The side of the tiles that PHOENIX_MMA_TILE asks for, 64 or 128; 0: by the shapes.
int forced_mma_tile();

// Whether Hopper's convolutions may read a pixel's neighbours from one copy (wgmma_halo.cu); PHOENIX_CUDA_HALO=0 forbids it.
bool halo_allowed();

// Blocks of a generic product.
Blocks grid(ProductSize size);

}  // namespace phx
