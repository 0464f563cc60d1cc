// Parameters of the noising kernels.
#pragma once
#include "cuda.cuh"
#include "ops.h"

namespace phx {

// What the launcher knows of one image of the batch, from its random words and the noise schedule.
struct NoisedImage {
  float signal, sigma;  // √ᾱ_t, √(1-ᾱ_t)
  int mirror;
};
struct NoisingBatch {
  View xt, target;
  const uint8_t* pixels;      // of the batch, in its order
  const NoisedImage* images;  // one an image
  uint64_t key;
  uint32_t step;
  Prediction prediction;
};
struct NormalFill {
  View x;
  uint64_t key;
  uint32_t first_image;
};

}  // namespace phx
