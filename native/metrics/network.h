// Feature networks of metrics: a chain of convolutions with their batch norms folded in, a global average and, if there is one, a linear
// classifier on top. Only forward; the description comes from src/ddpm/metrics/network.ts.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/context.h"
#include "kernels/tensor.h"

namespace phx {

enum class LayerKind { conv, depthwise, pointwise };  // 3x3; 3x3 of each channel by itself; 1x1

struct NetworkLayer {
  LayerKind kind;
  int channels;  // out; of a depthwise layer those of its input
  int stride;    // 1 or 2; 1 of a pointwise layer
  // adds the input of the layer before (halved by taking every other pixel, and centred among zero channels, where sizes differ)
  bool residual;
};

struct Network {
  int height, width, channels;       // of the images it was made for
  std::vector<float> scale, shift;   // a channel's input is u8·scale + shift
  std::vector<NetworkLayer> layers;  // y = clamp(layer + bias + residual, 0, most)
  float most;                        // of an activation: infinity for ReLU, 6 for ReLU6
  int pad;                           // of a stride of 2, before the image: 1, or 0 = all of it after (TensorFlow's SAME of even sides)
  int classes;                       // 0 = no classifier
  // a layer's w and b (K) after the other's, w: conv (K,3,3,C), depthwise (3,3,C), pointwise (K,C); then the classifier's w (classes,C) and
  // b
  std::vector<real> weights;
  int features() const { return layers.back().channels; }
};

// Images as they come: scaled to the network's size by bilinear interpolation between pixel centres, one channel as three equal ones.
struct NetworkImages {
  const uint8_t* pixels;  // (count,height,width,channels)
  int count, height, width, channels;
};

// Throws std::invalid_argument where sizes or the number of weights do not fit.
void check_network(const Network& net);

// features (count, features) and logits (count, classes)
void run_network(Context&, const Network& net, NetworkImages images, float* features, float* logits);

}  // namespace phx
