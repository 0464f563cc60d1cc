// A small classifier of one's own images, for metrics where no feature network is at hand: four 3x3 convolutions, each with GroupNorm and
// SiLU, a global average (the features) and a linear layer, one score per class. The average runs in host memory, so this model does too.
#pragma once
#include "unet/model.h"

namespace phx {

struct ClassifierConfig {
  int height, width, channels;  // of the images
  int classes;
};

class Classifier : public Model {
 public:
  explicit Classifier(ClassifierConfig config);  // throws std::invalid_argument

  ImageShape input() const override { return {config_.height, config_.width, config_.channels}; }
  ImageShape output() const override { return {1, 1, config_.classes}; }
  int classes() const override { return config_.classes; }
  int features() const override;
  Outputs forward(Tape&, Inputs) const override;
  // Weights are normal of variance 2/fan-in (He et al. 2015, eq. 10), scales 1, biases and the linear layer 0.
  std::vector<real> init(size_t index, uint64_t key) const override;

 private:
  struct Layer {
    Parameter w, b, scale, shift;
    int stride;
  };

  ClassifierConfig config_;
  std::vector<Layer> layers_;
  Parameter w_, b_;     // the linear layer
  int height_, width_;  // padded so that every stride halves evenly
};

}  // namespace phx
