// A Trainer: one model on one device with what its training needs (optimizer moments, EMA, gradient). It trains, evaluates the loss, and
// runs the network forward. One thread uses a Trainer at a time.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "unet/runner.h"

namespace phx {

struct TrainOptions {
  std::vector<int32_t> indices;  // steps·batch
  std::vector<int32_t> classes;  // of every image of the set, or empty
  int steps = 0;
  Hyper hyper;
  uint64_t key = 0;
  uint32_t first_step = 0;
  int64_t global_step = 0, adam_step = 0;
  BufferPtr anchor;  // of mu > 0
};

struct EvalOptions {
  std::vector<int32_t> indices, classes;
  int batch = 0;
  uint64_t key = 0;
  BufferPtr weights;
};

class Trainer {
 public:
  Trainer(std::unique_ptr<const Model> model, std::unique_ptr<const Loss> loss, int threads, Type precision = Type::real);

  const Model& model() const { return runner_.model(); }
  Runner& runner() { return runner_; }
  BufferPtr params() const { return params_; }
  // Made at first use, zero.
  BufferPtr ema();
  BufferPtr adam_m();
  BufferPtr adam_v();

  // The parameters as the model begins.
  void init(uint64_t key);

  struct TrainResult {
    std::vector<double> losses, grad_norms;
  };
  // Throws Aborted between two steps, where steps are not replayed between two ops, if stop is set; NotFinite if a step was not finite:
  // neither it nor those after it are applied. The steps before it stay applied.
  TrainResult train(const Images&, const TrainOptions&, const std::atomic<bool>* stop);
  double eval_loss(const Images&, const EvalOptions&, const std::atomic<bool>* stop);

  // What a model with features makes of images: features and outputs, one row per image.
  struct Described {
    std::vector<float> features, outputs;
  };
  Described describe(const Images&, const std::vector<int32_t>& indices, int batch, BufferPtr weights, const std::atomic<bool>* stop);

  // For tests: one forward pass, and the gradient of the mean loss. An empty target is left undefined: not every loss has one.
  std::vector<double> forward(const std::vector<double>& x, const std::vector<double>& t, const std::vector<int32_t>& classes,
                              BufferPtr weights);
  struct GradientResult {
    double loss;
    std::vector<double> output;
    BufferPtr gradient;
  };
  GradientResult gradient(const std::vector<double>& x, const std::vector<double>& t, const std::vector<double>& target,
                          const std::vector<int32_t>& classes, BufferPtr weights);

  size_t activation_bytes() const { return runner_.activation_bytes(); }
  size_t optimizer_bytes() const;

 private:
  void check_weights(const char* call, const BufferPtr& weights) const;
  void check_images(const Images&, const std::vector<int32_t>& indices, const std::vector<int32_t>* classes) const;
  void check_given(const char* call, const std::vector<double>& x, const std::vector<double>& t, const std::vector<int32_t>& classes,
                   const BufferPtr& weights) const;
  std::vector<char> records(const TrainOptions&, int first, int count) const;
  void collect(TrainResult&, const TrainOptions&, int steps) const;

  Runner runner_;
  std::unique_ptr<const Loss> loss_;
  BufferPtr params_, gradient_, m_, v_, ema_, anchor_;
};

}  // namespace phx
