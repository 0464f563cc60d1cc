#include "unet/classifier.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/device.h"
#include "kernels/normal.h"

namespace phx {
namespace {

constexpr int kWidths[] = {16, 32, 64, 64};
constexpr int kLayers = 4;
constexpr int kParametersPerLayer = 4;
constexpr int kGroups = 8;
constexpr int kLargeSide = 40;  // from here on the first convolution halves the image too

// The mean over an image's pixels, (N,1,1,C).
Var average(Tape& tape, Var x) {
  size_t area = size_t(x->tensor.h) * x->tensor.w;
  return tape.own(
      x, 1, 1, x->tensor.c,
      [area](Tensor y, Tensor x) {
        for (int n = 0; n < y.n; n++)
          for (int c = 0; c < y.c; c++) {
            double sum = 0;
            for (size_t pixel = 0; pixel < area; pixel++) sum += double(x.row(size_t(n) * area + pixel)[c]);
            y.row(size_t(n))[c] = real(sum / double(area));
          }
      },
      [area](Grad dx, Tensor dy) {
        for (size_t row = 0; row < dx.t.rows(); row++)
          for (int c = 0; c < dx.t.c; c++) {
            real slope = dy.row(row / area)[c] / real(area);
            dx.t.row(row)[c] = dx.accumulate ? dx.t.row(row)[c] + slope : slope;
          }
      });
}

}  // namespace

Classifier::Classifier(ClassifierConfig config) : config_(config) {
  check(device_is_host, "classifier", "a Session on the CPU");
  check(config.height > 0 && config.width > 0 && config.channels > 0 && config.classes > 0, "classifier", "sizes above 0");
  bool large = std::max(config.height, config.width) >= kLargeSide;
  int strides[] = {large ? 2 : 1, 2, 2, 1}, channels = config.channels;
  for (int i = 0; i < kLayers; i++) {
    std::string number = std::to_string(i + 1);
    Layer layer;
    layer.w = add("conv" + number + ".weight", {kWidths[i], channels, 3, 3});
    layer.b = add("conv" + number + ".bias", {kWidths[i]});
    layer.scale = add("norm" + number + ".weight", {kWidths[i]});
    layer.shift = add("norm" + number + ".bias", {kWidths[i]});
    layer.stride = strides[i];
    layers_.push_back(layer);
    channels = kWidths[i];
  }
  w_ = add("linear.weight", {config.classes, channels});
  b_ = add("linear.bias", {config.classes});
  int step = large ? 8 : 4;
  height_ = round_up(config.height, step), width_ = round_up(config.width, step);
}

int Classifier::features() const { return kWidths[kLayers - 1]; }

std::vector<real> Classifier::init(size_t index, uint64_t key) const {
  const Parameter& p = parameters_[index].at;
  std::vector<real> values(p.count(), real(0));
  size_t layer = index / kParametersPerLayer;
  if (layer >= layers_.size()) return values;
  if (p.offset == layers_[layer].w.offset) {
    double deviation = std::sqrt(2.0 / (9.0 * p.c));
    NormalStream normals(key, uint32_t(layer), 0, Purpose::init);
    for (real& value : values) value = real(deviation * double(normals.next()));
  } else if (p.offset == layers_[layer].scale.offset) {
    std::fill(values.begin(), values.end(), real(1));
  }
  return values;
}

Outputs Classifier::forward(Tape& tape, Inputs in) const {
  Var x = tape.resize(std::move(in.x), height_, width_);
  for (const Layer& layer : layers_) {
    x = tape.conv2d(x, layer.w, layer.b, Conv2d{layer.stride, 1, 1});
    GroupNorm norm;
    norm.groups = kGroups;
    x = tape.group_norm(x, {}, layer.scale, layer.shift, norm);
  }
  Var features = average(tape, std::move(x));
  return {tape.linear(features, {}, w_, b_), features};
}

}  // namespace phx
