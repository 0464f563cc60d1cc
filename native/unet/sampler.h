// Draws images: runs a model along a sampler's table, from noise to images in [-1,1].
#pragma once
#include <functional>
#include <vector>

#include "unet/runner.h"

namespace phx {

struct SampleOptions {
  int count = 0, batch = 0;
  Prediction prediction = Prediction::eps;
  std::vector<double> table;  // rows of t, alpha, sigma, cx, c0, c1, cz
  bool clip = true;
  uint64_t key = 0;
  uint32_t first_image = 0;
  std::vector<int32_t> classes;
  BufferPtr weights;
  std::function<void(double)> on_progress;  // the share done
};

// (count, height, width, channels) in [-1,1]. Throws Aborted between two rows if stop is set, NotFinite if the samples are not finite.
std::vector<float> sample(Runner&, const SampleOptions&, const std::atomic<bool>* stop);

}  // namespace phx
