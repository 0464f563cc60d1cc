#include "unet/trainer.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"

namespace phx {

namespace {

constexpr int kTrainRecords = 256;  // steps whose records lie on the device at once

BufferPtr lazily(BufferPtr& buffer, size_t count) {
  if (!buffer) buffer = std::make_shared<Buffer>(count);
  return buffer;
}

struct TrainHeader {
  Draw draw;
  Adam adam;
};

}  // namespace

Trainer::Trainer(std::unique_ptr<const Model> model, std::unique_ptr<const Loss> loss, int threads, Type precision)
    : runner_(std::move(model), threads, precision),
      loss_(std::move(loss)),
      params_(std::make_shared<Buffer>(runner_.model().parameter_count())) {}

BufferPtr Trainer::ema() { return lazily(ema_, params_->count); }
BufferPtr Trainer::adam_m() { return lazily(m_, params_->count); }
BufferPtr Trainer::adam_v() { return lazily(v_, params_->count); }

size_t Trainer::optimizer_bytes() const {
  size_t bytes = runner_.rounded_bytes();
  for (const BufferPtr& b : {gradient_, m_, v_, ema_, anchor_})
    if (b) bytes += b->count * sizeof(real);
  return bytes;
}

void Trainer::init(uint64_t key) {
  const auto& parameters = model().parameters();
  for (size_t i = 0; i < parameters.size(); i++) {
    std::vector<real> values = model().init(i, key);
    device_put(params_->data + parameters[i].at.offset, values.data(), values.size() * sizeof(real));
  }
}

// ---- checks of what a wrong call would read or write outside of

void Trainer::check_weights(const char* call, const BufferPtr& weights) const {
  check(weights->count == params_->count, call, "weights of as many values as the model has parameters");
}

// classes: null where none are needed.
void Trainer::check_images(const Images& images, const std::vector<int32_t>& indices, const std::vector<int32_t>* classes) const {
  ImageShape of = model().input();
  check(images.height == of.height && images.width == of.width && images.channels == of.channels, "images",
        std::to_string(of.height) + "x" + std::to_string(of.width) + "x" + std::to_string(of.channels) + ", got " +
            std::to_string(images.height) + "x" + std::to_string(images.width) + "x" + std::to_string(images.channels));
  for (int32_t i : indices)
    check(i >= 0 && size_t(i) < images.count, "indices", "positions below " + std::to_string(images.count) + ", got " + std::to_string(i));
  if (!classes || !model().classes()) return;
  check(classes->size() == images.count, "classes", "one class for each of the " + std::to_string(images.count) + " images");
  for (int32_t k : *classes)
    check(k >= 0 && k < model().classes(), "classes", "classes below " + std::to_string(model().classes()) + ", got " + std::to_string(k));
}

// ---- training

std::vector<char> Trainer::records(const TrainOptions& o, int first, int count) const {
  const Hyper& h = o.hyper;
  size_t bytes = Record<TrainHeader>::bytes(h.batch);
  std::vector<char> staged(bytes * size_t(count));
  for (int i = 0; i < count; i++) {
    Record<TrainHeader> record(staged.data() + bytes * size_t(i), h.batch);
    int64_t at = o.global_step + first + i;
    Adam a{h.lr, h.beta1, h.beta2, h.adam_eps, h.weight_decay, 1, 0, o.adam_step + first + i + 1};
    if (h.warmup_steps > 0) a.lr *= std::min(1.0, double(at + 1) / h.warmup_steps);
    a.ema_decay = std::min(h.ema_decay, double(1 + at) / double(10 + at));
    *record.header() = {{o.key, o.first_step + uint32_t(first + i)}, a};
    const int32_t* indices = o.indices.data() + size_t(first + i) * h.batch;
    for (int j = 0; j < h.batch; j++) {
      record.indices()[j] = indices[j];
      record.classes()[j] = real(model().classes() ? o.classes[indices[j]] : 0);
    }
  }
  return staged;
}

void Trainer::collect(TrainResult& result, const TrainOptions& o, int steps) const {
  std::vector<StepResult> found(steps);
  device_get(found.data(), runner_.results.data(), found.size() * sizeof(StepResult));
  for (const StepResult& r : found) {
    if (!std::isfinite(r.loss) || !std::isfinite(r.grad_norm))
      throw NotFinite{"the loss (" + std::to_string(r.loss) + ") or the gradient's norm (" + std::to_string(r.grad_norm) + ") of step " +
                      std::to_string(o.first_step + result.losses.size()) + " is not finite"};
    result.losses.push_back(r.loss);
    result.grad_norms.push_back(r.grad_norm);
  }
}

Trainer::TrainResult Trainer::train(const Images& images, const TrainOptions& o, const std::atomic<bool>* stop) {
  const Hyper& h = o.hyper;
  check(o.steps > 0 && h.batch > 0 && o.indices.size() == size_t(o.steps) * h.batch, "train", "steps·batch indices");
  check(!o.anchor || o.anchor->count == params_->count, "train", "an anchor of as many values as the model has parameters");
  check_images(images, o.indices, &o.classes);
  lazily(gradient_, params_->count), adam_m(), adam_v();
  size_t count = params_->count, bytes = Record<TrainHeader>::bytes(h.batch);
  const real* anchor = h.mu > 0 && o.anchor ? runner_.in_place(*o.anchor, anchor_) : nullptr;
  real* averaged = h.ema_decay > 0 ? ema()->data : nullptr;

  Runner::Pass pass{.batch = h.batch, .weights = params_->data, .gradients = gradient_->data, .loss = loss_.get(), .stop = stop};
  runner_.reserve(pass);
  runner_.reserve_records(bytes, kTrainRecords), runner_.results.reserve(kTrainRecords * sizeof(StepResult));
  if (averaged && o.global_step == 0) device_copy(averaged, params_->data, count);
  if (o.adam_step == 0)
    for (const BufferPtr& moment : {m_, v_}) device_fill(moment->data, 0, count);
  runner_.use_weights(params_->data);

  Record<TrainHeader> now(runner_.now(), h.batch);
  Context& context = runner_.context();
  Adam* adam = &now.header()->adam;
  auto* results = reinterpret_cast<StepResult*>(runner_.results.data());
  pass.dropout.draw = &now.header()->draw;
  auto step = [&] {
    Tensor losses;
    runner_.next(bytes);
    runner_.pass(
        pass,
        [&](const Batch& b) {
          loss_->fill(context, b, {images.pixels(), now.indices(), now.classes()}, pass.dropout.draw, h);
        },
        [&](const Batch& b, const Outputs&) { losses = b.loss; });
    if (anchor) proximal(context, gradient_->data, params_->data, anchor, h.mu, count);
    finish_gradient(context, results, runner_.progress(), adam, losses, gradient_->data, count, h.clip);
    adam_step(context, params_->data, m_->data, v_->data, averaged, runner_.rounded(), gradient_->data, count, adam);
  };
  const std::vector<uint64_t> key = captured(h, {0, bits(anchor), bits(averaged), bits(images.pixels())});

  TrainResult result;
  for (int first = 0, n; first < o.steps; first += n) {
    n = std::min(kTrainRecords, o.steps - first);
    runner_.load(records(o, first, n));
    int begun = 0;
    while (begun < n && !runner_.halted()) {
      if (stop && stop->load(std::memory_order_relaxed)) throw Aborted{};
      runner_.run_step(key, step);
      begun++;
    }
    collect(result, o, begun);
  }
  return result;
}

// ---- evaluation

double Trainer::eval_loss(const Images& images, const EvalOptions& o, const std::atomic<bool>* stop) {
  check(o.batch > 0 && !o.indices.empty(), "evalLoss", "at least one index and a batch above 0");
  check_weights("evalLoss", o.weights);
  check_images(images, o.indices, &o.classes);
  runner_.use_weights(o.weights->data);
  double sum = 0;
  for (size_t first = 0; first < o.indices.size(); first += o.batch) {
    int n = int(std::min(size_t(o.batch), o.indices.size() - first));
    std::vector<char> staged(Record<Draw>::bytes(n));
    Record<Draw> record(staged.data(), n);
    *record.header() = {o.key, uint32_t(first / o.batch)};
    for (int j = 0; j < n; j++) {
      int32_t index = o.indices[first + j];
      record.indices()[j] = index;
      record.classes()[j] = real(model().classes() ? o.classes[index] : 0);
    }
    Runner::Pass pass{.batch = n, .weights = o.weights->data, .loss = loss_.get(), .stop = stop};
    runner_.reserve(pass);
    Record<Draw> now(runner_.put_now(staged), n);
    runner_.pass(
        pass,
        [&](const Batch& b) {
          loss_->fill(runner_.context(), b, {images.pixels(), now.indices(), now.classes()}, now.header(), {});
        },
        [&](const Batch& b, const Outputs&) { sum += mean_of(b.loss) * n; });
  }
  return sum / double(o.indices.size());
}

Trainer::Described Trainer::describe(const Images& images, const std::vector<int32_t>& indices, int batch, BufferPtr weights,
                                     const std::atomic<bool>* stop) {
  check(model().features() > 0, "describe", "a model with features");
  check(batch > 0, "describe", "a batch above 0");
  check_weights("describe", weights);
  check_images(images, indices, nullptr);
  runner_.use_weights(weights->data);
  Described found;
  for (size_t first = 0; first < indices.size(); first += batch) {
    int n = int(std::min(size_t(batch), indices.size() - first));
    std::vector<char> staged(Record<Draw>::bytes(n));  // of class 0 all of them: without a loss they are not read
    std::copy_n(indices.begin() + std::ptrdiff_t(first), n, Record<Draw>(staged.data(), n).indices());
    Runner::Pass pass{.batch = n, .weights = weights->data, .stop = stop};
    runner_.reserve(pass);
    Record<Draw> now(runner_.put_now(staged), n);
    runner_.pass(
        pass,
        [&](const Batch& b) {
          loss_->fill(runner_.context(), b, {images.pixels(), now.indices(), now.classes()}, now.header(), {});
        },
        [&](const Batch&, const Outputs& out) {
          for (real value : values_of(out.features->tensor)) found.features.push_back(float(value));
          for (real value : values_of(out.y->tensor)) found.outputs.push_back(float(value));
        });
  }
  return found;
}

// ---- for tests

void Trainer::check_given(const char* call, const std::vector<double>& x, const std::vector<double>& t, const std::vector<int32_t>& classes,
                          const BufferPtr& weights) const {
  check(!t.empty() && x.size() == t.size() * model().input().size(), call, "x of as many images as t has times");
  check_weights(call, weights);
  check(!model().classes() || classes.size() == t.size(), call, "one class an image");
  for (int32_t k : classes) check(k >= 0 && (!model().classes() || k < model().classes()), call, "classes that the model has");
}

std::vector<double> Trainer::forward(const std::vector<double>& x, const std::vector<double>& t, const std::vector<int32_t>& classes,
                                     BufferPtr weights) {
  check_given("forward", x, t, classes, weights);
  std::vector<double> output;
  runner_.use_weights(weights->data);
  Runner::Pass pass{.batch = int(t.size()), .weights = weights->data};
  runner_.reserve(pass);
  runner_.pass(
      pass,
      [&](const Batch& b) {
        assign(b.x, x.data()), assign(b.t, t.data());
        if (model().classes()) assign(b.classes, classes.data());
      },
      [&](const Batch&, const Outputs& out) {
        std::vector<real> values = values_of(out.y->tensor);
        output.assign(values.begin(), values.end());
      });
  return output;
}

Trainer::GradientResult Trainer::gradient(const std::vector<double>& x, const std::vector<double>& t, const std::vector<double>& target,
                                          const std::vector<int32_t>& classes, BufferPtr weights) {
  check_given("gradient", x, t, classes, weights);
  check(target.empty() || target.size() == t.size() * model().output().size(), "gradient", "a target of as many images as t has times");
  GradientResult result{0, {}, std::make_shared<Buffer>(params_->count)};
  runner_.use_weights(weights->data);
  Runner::Pass pass{.batch = int(t.size()), .weights = weights->data, .gradients = result.gradient->data, .loss = loss_.get()};
  runner_.reserve(pass);
  runner_.pass(
      pass,
      [&](const Batch& b) {
        assign(b.x, x.data()), assign(b.t, t.data());
        if (!target.empty()) assign(b.target, target.data());
        if (model().classes()) assign(b.classes, classes.data());
        device_fill(b.weight.data, 1, t.size());
      },
      [&](const Batch& b, const Outputs& out) {
        result.loss = mean_of(b.loss);
        std::vector<real> values = values_of(out.y->tensor);
        result.output.assign(values.begin(), values.end());
      });
  return result;
}

}  // namespace phx
