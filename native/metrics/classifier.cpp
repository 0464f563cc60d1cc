#include "classifier.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/normal.h"
#include "unet/tape.h"

namespace phx {
namespace {

constexpr int kWidths[] = {16, 32, 64, kClassifierFeatures};
constexpr int kGroups = 8;
constexpr int kLargeSide = 40;  // from here on the first convolution halves the image too
constexpr int kRunBatch = 64;

struct Layer {
  Parameter w, b, scale, shift;
  int stride;
};

struct Plan {
  std::vector<Layer> layers;
  Parameter w, b;  // the linear layer
  size_t count = 0;
  int height, width;  // padded so that every stride halves evenly

  explicit Plan(const ClassifierShape& shape) {
    check(shape.height >= 4 && shape.width >= 4 && shape.height <= 1024 && shape.width <= 1024, "classifier", "sides of 4 to 1024 pixels");
    check(shape.channels >= 1 && shape.channels <= 16 && shape.classes >= 2 && shape.classes <= 65536, "classifier",
          "1 to 16 channels and 2 to 65536 classes");
    auto add = [this](int n, int taps, int c) {
      Parameter p{count, n, taps, taps, c};
      count += p.count();
      return p;
    };
    bool large = std::max(shape.height, shape.width) >= kLargeSide;
    int strides[] = {large ? 2 : 1, 2, 2, 1}, channels = shape.channels;
    for (int i = 0; i < 4; i++) {
      Layer layer{add(kWidths[i], 3, channels), add(1, 1, kWidths[i]), add(1, 1, kWidths[i]), add(1, 1, kWidths[i]), strides[i]};
      layers.push_back(layer);
      channels = kWidths[i];
    }
    w = add(shape.classes, 1, channels), b = add(1, 1, shape.classes);
    int step = large ? 8 : 4;
    height = (shape.height + step - 1) / step * step, width = (shape.width + step - 1) / step * step;
  }
};

// One pass over n images; `labels` and `gradients` null: forward only. Returns the mean loss (0 without labels).
double pass(Context& ctx, Arena& arena, const ClassifierShape& shape, const Plan& plan, const real* weights, real* gradients,
            const uint8_t* pixels, const int32_t* labels, int n, real* features, real* logits) {
  double loss = 0;
  Tensor input = tensor(arena.take(size_t(n) * shape.height * shape.width * shape.channels), n, shape.height, shape.width, shape.channels);
  {
    Tape tape(ctx, arena, weights, gradients);
    tape.run([&] {
      for (size_t i = 0; i < input.size(); i++) input.data[i] = real(pixels[i]) / real(127.5) - 1;
    });
    Var x = tape.resize(tape.input(input), plan.height, plan.width);
    for (const Layer& layer : plan.layers) {
      x = tape.conv2d(x, layer.w, layer.b, Conv2d{layer.stride, 1, 1});
      GroupNorm norm;
      norm.groups = kGroups;
      x = tape.group_norm(x, {}, layer.scale, layer.shift, norm);
    }
    const Tensor& last = x->tensor;
    size_t area = size_t(last.h) * last.w;
    std::vector<real> means(size_t(n) * last.c), scores(size_t(n) * shape.classes), dscores(scores.size()), dmeans(means.size());
    Tensor mean = matrix(means.data(), n, last.c), score = matrix(scores.data(), n, shape.classes);
    auto at = [](real* block, const Parameter& p) { return tensor(block + p.offset, p.n, p.h, p.w, p.c); };
    real* constant = const_cast<real*>(weights);  // a Tensor has no const; ops do not write their parameters
    tape.run([&] {
      for (int i = 0; i < n; i++)
        for (int c = 0; c < last.c; c++) {
          double sum = 0;
          for (size_t pixel = 0; pixel < area; pixel++) sum += double(last.row(size_t(i) * area + pixel)[c]);
          mean.row(size_t(i))[c] = real(sum / double(area));
        }
      linear_forward(ctx, score, mean, {}, {}, at(constant, plan.w), at(constant, plan.b));
      if (features) std::copy(means.begin(), means.end(), features);
      if (logits) std::copy(scores.begin(), scores.end(), logits);
      if (!labels) return;
      // loss = mean log Σ exp(s) - s[label], ds = (softmax(s) - onehot(label)) / n
      for (int i = 0; i < n; i++) {
        const real* s = score.row(size_t(i));
        double most = double(*std::max_element(s, s + shape.classes)), sum = 0;
        for (int k = 0; k < shape.classes; k++) sum += std::exp(double(s[k]) - most);
        loss += (most + std::log(sum) - double(s[labels[i]])) / n;
        for (int k = 0; k < shape.classes; k++)
          dscores[size_t(i) * shape.classes + k] = real((std::exp(double(s[k]) - most) / sum - (k == labels[i])) / n);
      }
    });
    if (gradients) {
      Grad dx = x->gradient_in();
      tape.run([&] {
        Tensor dmean = matrix(dmeans.data(), n, last.c);
        linear_backward(ctx, {dmean, false}, {}, at(gradients, plan.w), at(gradients, plan.b), matrix(dscores.data(), n, shape.classes),
                        mean, {}, at(constant, plan.w));
        for (size_t row = 0; row < last.rows(); row++)
          for (int c = 0; c < last.c; c++) dx.t.row(row)[c] = dmean.row(row / area)[c] / real(area);
      });
      x.reset();
      tape.backward();
    }
  }
  arena.give_back(input.data);
  return loss;
}

// Sizes an arena for passes over n images, by a dry run.
void reserve(Context& ctx, Arena& arena, const ClassifierShape& shape, const Plan& plan, bool training, int n) {
  Arena dry;
  real none = 0;  // marks the pass as recording; nothing is written on a dry arena
  pass(ctx, dry, shape, plan, &none, training ? &none : nullptr, nullptr, nullptr, n, nullptr, nullptr);
  arena.commit(dry.high_water());
}

size_t image_bytes(const ClassifierShape& shape) { return size_t(shape.height) * shape.width * shape.channels; }

void check_labels(const ClassifierShape& shape, const std::vector<int32_t>& labels) {
  for (int32_t label : labels)
    check(label >= 0 && label < shape.classes, "classifier",
          "labels below " + std::to_string(shape.classes) + ", not " + std::to_string(label));
}

void check_weights(const Plan& plan, const std::vector<real>& weights) {
  check(weights.size() == plan.count, "classifier", std::to_string(plan.count) + " weights, not " + std::to_string(weights.size()));
}

}  // namespace

size_t classifier_size(const ClassifierShape& shape) { return Plan(shape).count; }

std::vector<real> classifier_init(const ClassifierShape& shape, uint64_t key) {
  Plan plan(shape);
  std::vector<real> weights(plan.count, real(0));
  for (uint32_t i = 0; i < plan.layers.size(); i++) {
    const Layer& layer = plan.layers[i];
    double deviation = std::sqrt(2.0 / (9.0 * layer.w.c));
    NormalStream normals(key, i, 0, Purpose::init);
    for (size_t j = 0; j < layer.w.count(); j++) weights[layer.w.offset + j] = real(deviation * double(normals.next()));
    std::fill_n(weights.begin() + std::ptrdiff_t(layer.scale.offset), layer.scale.count(), real(1));
  }
  return weights;
}

std::vector<double> classifier_train(Context& ctx, const ClassifierShape& shape, ClassifierState& state, const std::vector<uint8_t>& pixels,
                                     const std::vector<int32_t>& labels, int batch, const std::vector<double>& rates) {
  Plan plan(shape);
  check_weights(plan, state.weights);
  check_labels(shape, labels);
  check(
      batch >= 1 && batch <= 65536 && labels.size() == rates.size() * size_t(batch) && pixels.size() == labels.size() * image_bytes(shape),
      "classifier", "a batch of images and labels for each step");
  state.m.resize(plan.count, real(0)), state.v.resize(plan.count, real(0));
  Arena arena;
  reserve(ctx, arena, shape, plan, true, batch);
  std::vector<real> gradient(plan.count);
  std::vector<double> losses;
  for (size_t step = 0; step < rates.size(); step++) {
    size_t first = step * size_t(batch);
    arena.reset();
    losses.push_back(pass(ctx, arena, shape, plan, state.weights.data(), gradient.data(), &pixels[first * image_bytes(shape)],
                          &labels[first], batch, nullptr, nullptr));
    Adam adam{rates[step], 0.9, 0.999, 1e-8, 0, 1, 0, ++state.step};
    adam_step(ctx, state.weights.data(), state.m.data(), state.v.data(), nullptr, {}, gradient.data(), plan.count, &adam);
  }
  return losses;
}

Classified classifier_run(Context& ctx, const ClassifierShape& shape, const std::vector<real>& weights,
                          const std::vector<uint8_t>& pixels) {
  Plan plan(shape);
  check_weights(plan, weights);
  size_t count = pixels.size() / image_bytes(shape);
  check(count * image_bytes(shape) == pixels.size(), "classifier", "whole images of " + std::to_string(image_bytes(shape)) + " bytes");
  Classified out{std::vector<real>(count * kClassifierFeatures), std::vector<real>(count * size_t(shape.classes))};
  Arena arena;
  reserve(ctx, arena, shape, plan, false, kRunBatch);
  for (size_t first = 0; first < count; first += kRunBatch) {
    arena.reset();
    pass(ctx, arena, shape, plan, weights.data(), nullptr, &pixels[first * image_bytes(shape)], nullptr,
         int(std::min(count - first, size_t(kRunBatch))), &out.features[first * kClassifierFeatures],
         &out.logits[first * size_t(shape.classes)]);
  }
  return out;
}

double classifier_gradient(Context& ctx, const ClassifierShape& shape, const std::vector<real>& weights, const std::vector<uint8_t>& pixels,
                           const std::vector<int32_t>& labels, std::vector<real>& gradient) {
  Plan plan(shape);
  check_weights(plan, weights);
  check_labels(shape, labels);
  check(!labels.empty() && pixels.size() == labels.size() * image_bytes(shape), "classifier", "one label an image");
  gradient.assign(plan.count, real(0));
  Arena arena;
  reserve(ctx, arena, shape, plan, true, int(labels.size()));
  return pass(ctx, arena, shape, plan, weights.data(), gradient.data(), pixels.data(), labels.data(), int(labels.size()), nullptr, nullptr);
}

}  // namespace phx
