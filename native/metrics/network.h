// Feature networks of metrics: a chain of convolutions with their batch norms folded in, a global average and, if there is one, a linear
// classifier on top. Only forward; the description comes from src/ddpm/metrics/network.ts.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/context.h"
#include "kernels/tensor.h"

namespace phx {

struct NetworkLayer {
  int channels;  // out
  int stride;    // 1 or 2
  bool
      residual;  // adds the input of the layer before (halved by taking every other pixel, and centred among zero channels, where sizes differ)
};

struct Network {
  int height, width, channels;       // of the images
  std::vector<float> scale, shift;   // a channel's input is u8·scale + shift
  std::vector<NetworkLayer> layers;  // y = relu(conv 3x3, padding 1, + bias + residual)
  int classes;                       // 0 = no classifier
  std::vector<real> weights;         // a layer's w (K,3,3,C) and b (K) after the other's; then the classifier's w (classes,C) and b
  int features() const { return layers.back().channels; }
};

// Throws std::invalid_argument where sizes or the number of weights do not fit.
void check_network(const Network& net);

// pixels (count,H,W,C) u8 → features (count, features) and logits (count, classes)
void run_network(Context&, const Network& net, const uint8_t* pixels, int count, float* features, float* logits);

}  // namespace phx
