// Parameters of the noising kernels.
#pragma once
#include "kernels/cuda/cuda.cuh"
#include "kernels/ops.h"

namespace phx {

// What one image of the batch gets by its random words and the noise schedule.
struct NoisedImage {
  float signal, sigma;  // √ᾱ_t, √(1-ᾱ_t)
  int mirror;
};
struct NoisingTimes {
  View t, weight;
  NoisedImage* images;  // one per image of the batch
  const double* alpha_bar;
  NoiseBatch attributes;
};
struct NoisingBatch {
  View xt, target;
  const uint8_t* pixels;  // of all images
  const int32_t* indices;
  const NoisedImage* images;
  const Draw* draw;
  Prediction prediction;
};
struct NormalFill {
  View x;
  uint64_t key;
  uint32_t first_image;
};

}  // namespace phx
