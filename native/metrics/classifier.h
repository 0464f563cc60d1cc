// A small classifier of one's own images, for metrics where no feature network is at hand: four 3x3 convolutions, each with GroupNorm and SiLU,
// a global average (the features) and a linear layer, trained by Adam on softmax cross-entropy. It runs on the tape and ops of the U-Net, in
// host memory.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/context.h"
#include "kernels/tensor.h"

namespace phx {

struct ClassifierShape {
  int height, width, channels;  // of the images, u8 (N,H,W,C); 4 to 1024 a side
  int classes;                  // at least 2
};

constexpr int kClassifierFeatures = 64;

// Number of weights: each layer's convolution w (K,3,3,C) and b (K), GroupNorm w and b (K); then the linear layer's w (classes,64) and b.
size_t classifier_size(const ClassifierShape&);
// Weights to begin with: normal of variance 2/fan-in (He et al. 2015, eq. 10), scales 1, biases and the linear layer 0.
std::vector<real> classifier_init(const ClassifierShape&, uint64_t key);

struct ClassifierState {
  std::vector<real> weights, m, v;  // Adam's moments; empty = zeros
  int64_t step = 0;                 // steps done
};
// rates.size() steps of `batch` images each, one learning rate a step; pixels and labels (steps·batch). Returns each step's mean loss.
// Throws std::invalid_argument for sizes that do not fit or labels that are no class.
std::vector<double> classifier_train(Context&, const ClassifierShape&, ClassifierState&, const std::vector<uint8_t>& pixels,
                                     const std::vector<int32_t>& labels, int batch, const std::vector<double>& rates);

// features (count,64), logits (count,classes)
struct Classified {
  std::vector<real> features, logits;
};
Classified classifier_run(Context&, const ClassifierShape&, const std::vector<real>& weights, const std::vector<uint8_t>& pixels);

// The mean loss of the images and its gradient by the weights.
double classifier_gradient(Context&, const ClassifierShape&, const std::vector<real>& weights, const std::vector<uint8_t>& pixels,
                           const std::vector<int32_t>& labels, std::vector<real>& gradient);

}  // namespace phx
