#include "session.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "../kernels/check.h"
#include "../kernels/device.h"
#include "../kernels/philox.h"

namespace phx {

namespace {

// The values of a contiguous tensor.
std::vector<real> values_of(const Tensor& t) {
  std::vector<real> values(t.size());
  device_get(values.data(), t.data, values.size() * sizeof(real));
  return values;
}

// Zeros, made at once: a large block is the system's fresh pages.
uint8_t* allocate_bytes(size_t count) {
  void* block = std::calloc(std::max<size_t>(count, 1), 1);
  if (!block) throw std::bad_alloc();
  return static_cast<uint8_t*>(block);
}

double mean(const Tensor& t) {
  double sum = 0;
  for (real value : values_of(t)) sum += value;
  return sum / double(t.size());
}

BufferPtr lazily(BufferPtr& buffer, size_t count) {
  if (!buffer) buffer = std::make_shared<Buffer>(count);
  return buffer;
}

// Puts values into the contiguous tensor t (of reals, whatever the caller's type).
template <class T>
void assign(Tensor t, const T* values) {
  std::vector<real> staged(values, values + t.size());
  device_put(t.data, staged.data(), staged.size() * sizeof(real));
}

}  // namespace

Buffer::Buffer(size_t count) : data(static_cast<real*>(device_allocate_zeros(count * sizeof(real)))), count(count) {}
Buffer::~Buffer() { device_release(data); }

Images::Images(size_t count, int height, int width, int channels)
    : count(count),
      height(height),
      width(width),
      channels(channels),
      bytes(count * height * width * channels),
      pixels(allocate_bytes(bytes), std::free) {}

Session::Session(UNetConfig config, NoiseSchedule noise, int threads, Type activations)
    : net_(std::move(config)), noise_(std::move(noise)), context_(threads), params_(std::make_shared<Buffer>(net_.parameter_count())) {
  check(!noise_.alpha_bar.empty(), "session", "a noise schedule of at least one step");
  check(activations == Type::real || device_takes_bf16(), "session", "a device that computes in bf16; this one does in fp32 only");
  if (activations == Type::real) return;
  rounded_memory_ = std::make_shared<Buffer>(reals_of(Type::bf16, params_->count));
  rounded_ = {rounded_memory_->data, 1, 1, 1, int(params_->count), int(params_->count), Type::bf16};
}

BufferPtr Session::ema() { return lazily(ema_, params_->count); }
BufferPtr Session::adam_m() { return lazily(m_, params_->count); }
BufferPtr Session::adam_v() { return lazily(v_, params_->count); }

size_t Session::optimizer_bytes() const {
  size_t bytes = 0;
  for (const BufferPtr& b : {gradient_, m_, v_, ema_, rounded_memory_})
    if (b) bytes += b->count * sizeof(real);
  return bytes;
}

void Session::init(uint64_t key) {
  uint32_t index = 0;
  for (const NamedParameter& p : net_.parameters()) {
    index++;
    auto ends = [&](const char* suffix) { return p.name.ends_with(suffix); };
    double bound = 0, fixed = 0;
    if (p.shape.size() == 1) {
      fixed = ends(".weight") ? 1 : 0;
    } else {
      double taps = double(p.at.h) * p.at.w, fan_avg = taps * (p.shape[0] + p.shape[1]) / 2;
      bool last = ends(".conv2.weight") || ends(".to_out.0.weight") || p.name == "conv_out.weight";
      bound = std::sqrt(3 / fan_avg) * (last ? 1e-5 : 1);
    }
    std::vector<real> w(p.at.count());
    for (size_t i = 0; i < w.size(); i++)
      w[i] = real(bound ? bound * (2 * ((philox(key, uint32_t(i), index, 0, Purpose::init).w[0] + 0.5) / 4294967296.0) - 1) : fixed);
    device_put(params_->data + p.at.offset, w.data(), w.size() * sizeof(real));
  }
}

// ---- one pass

struct Session::BatchMemory {
  Arena& arena;
  Batch batch;
  BatchMemory(Arena& arena, const UNetConfig& c, int n) : arena(arena) {
    auto take = [&](int h, int w, int channels) { return tensor(arena.take(size_t(n) * h * w * channels), n, h, w, channels); };
    batch = {take(c.height, c.width, c.in_channels),
             take(c.height, c.width, c.out_channels),
             take(1, 1, 1),
             take(1, 1, 1),
             take(1, 1, 1),
             take(1, 1, 1)};
  }
  ~BatchMemory() {
    for (const Tensor& t : {batch.x, batch.target, batch.weight, batch.t, batch.classes, batch.loss}) arena.give_back(t.data);
  }
};

void Session::pass(Arena& arena, int n, const real* weights, real* gradients, bool with_loss, Dropout dropout,
                   const std::atomic<bool>* stop, const Fill& fill, const Use& use) {
  BatchMemory memory(arena, net_.config(), n);
  const Batch& b = memory.batch;
  Tape tape(context_, arena, weights, gradients, stop, rounded_);
  tape.run([&] { fill(b); });
  Var y = net_.forward(tape, tape.input(b.x), b.t, b.classes, dropout);
  if (with_loss) tape.mse(y, b.target, b.weight, b.loss);
  tape.run([&] { use(b, y->tensor); });
  y.reset();
  if (gradients) tape.backward();
}

void Session::reserve(int batch, bool training, bool with_loss) {
  size_t& planned = planned_[{batch, training, with_loss}];
  if (!planned) {
    Arena dry;
    real none = 0;  // marks the pass as recording; nothing is written on a dry arena
    pass(dry, batch, params_->data, training ? &none : nullptr, with_loss, {}, nullptr, {}, {});
    planned = dry.high_water();
  }
  arena_.reset();
  if (planned > arena_.capacity()) arena_.commit(planned);
}

void Session::use_weights(const real* weights) {
  if (rounded_) convert(context_, rounded_, vector(const_cast<real*>(weights), rounded_.c));
}

void Session::fill_classes(Tensor classes, const std::vector<int32_t>& of_images, const int32_t* indices) const {
  std::vector<int32_t> values(classes.size());
  for (size_t i = 0; i < values.size(); i++) values[i] = net_.config().classes ? of_images[indices[i]] : 0;
  assign(classes, values.data());
}

void Session::check_images(const Images& images, const std::vector<int32_t>& indices, const std::vector<int32_t>& classes) const {
  const UNetConfig& c = net_.config();
  check(images.height == c.height && images.width == c.width && images.channels == c.in_channels, "images",
        std::to_string(c.height) + "x" + std::to_string(c.width) + "x" + std::to_string(c.in_channels) + ", got " +
            std::to_string(images.height) + "x" + std::to_string(images.width) + "x" + std::to_string(images.channels));
  check(c.in_channels == c.out_channels, "images", "a model with as many channels out as in");
  for (int32_t i : indices)
    check(i >= 0 && size_t(i) < images.count, "indices", "positions below " + std::to_string(images.count) + ", got " + std::to_string(i));
  if (!c.classes) return;
  check(classes.size() == images.count, "classes", "one class for each of the " + std::to_string(images.count) + " images");
  for (int32_t k : classes)
    check(k >= 0 && k < c.classes, "classes", "classes below " + std::to_string(c.classes) + ", got " + std::to_string(k));
}

// ---- training

Session::TrainResult Session::train(const Images& images, const TrainOptions& o, const std::atomic<bool>* stop) {
  check(o.steps > 0 && o.batch > 0 && o.indices.size() == size_t(o.steps) * o.batch, "train", "steps·batch indices");
  check(!o.anchor || o.anchor->count == params_->count, "train", "an anchor of as many values as the model has parameters");
  check_images(images, o.indices, o.classes);
  lazily(gradient_, params_->count), adam_m(), adam_v();
  size_t count = params_->count;
  if (o.ema_decay > 0 && o.global_step == 0) device_copy(ema()->data, params_->data, count);
  if (o.adam_step == 0)
    for (const BufferPtr& moment : {m_, v_}) device_fill(moment->data, 0, count);
  reserve(o.batch, true, true);
  use_weights(params_->data);

  TrainResult result;
  for (int i = 0; i < o.steps; i++) {
    const int32_t* indices = o.indices.data() + size_t(i) * o.batch;
    uint32_t step = o.first_step + uint32_t(i);
    NoiseBatch noise{noise_.prediction, int(noise_.alpha_bar.size()), real(o.min_snr_gamma), o.flip, o.key, step};
    double loss = 0;
    arena_.reset();
    pass(
        arena_, o.batch, params_->data, gradient_->data, true, {0, o.key, 0, step}, stop,
        [&](const Batch& b) {
          noise_batch(context_, b.x, b.target, b.weight, b.t, images.pixels.get(), indices, noise_.alpha_bar.data(), noise);
          fill_classes(b.classes, o.classes, indices);
        },
        [&](const Batch& b, Tensor) { loss = mean(b.loss); });
    if (o.mu > 0 && o.anchor) proximal(context_, gradient_->data, params_->data, o.anchor->data, o.mu, count);
    double norm = std::sqrt(sum_of_squares(context_, gradient_->data, count));
    if (!std::isfinite(loss) || !std::isfinite(norm))
      throw NotFinite{"the loss (" + std::to_string(loss) + ") or the gradient's norm (" + std::to_string(norm) + ") of step " +
                      std::to_string(step) + " is not finite"};
    int64_t n = o.global_step + i;
    Adam adam{o.lr, o.beta1, o.beta2, o.eps, o.weight_decay, 1, 0, o.adam_step + i + 1};
    if (o.warmup > 0) adam.lr *= std::min(1.0, double(n + 1) / o.warmup);
    if (o.clip > 0 && norm > o.clip) adam.grad_scale = o.clip / norm;
    adam.ema_decay = std::min(o.ema_decay, double(1 + n) / double(10 + n));
    adam_step(context_, params_->data, m_->data, v_->data, o.ema_decay > 0 ? ema_->data : nullptr, rounded_, gradient_->data, count, adam);
    result.losses.push_back(loss);
    result.grad_norms.push_back(norm);
  }
  return result;
}

double Session::eval_loss(const Images& images, const EvalOptions& o, const std::atomic<bool>* stop) {
  check(o.batch > 0 && !o.indices.empty(), "evalLoss", "at least one index and a batch above 0");
  check(o.weights->count == params_->count, "evalLoss", "weights of as many values as the model has parameters");
  check_images(images, o.indices, o.classes);
  use_weights(o.weights->data);
  double sum = 0;
  for (size_t first = 0; first < o.indices.size(); first += o.batch) {
    int n = int(std::min(size_t(o.batch), o.indices.size() - first));
    NoiseBatch noise{noise_.prediction, int(noise_.alpha_bar.size()), 0, false, o.key, uint32_t(first / o.batch)};
    reserve(n, false, true);
    pass(
        arena_, n, o.weights->data, nullptr, true, {}, stop,
        [&](const Batch& b) {
          noise_batch(context_, b.x, b.target, b.weight, b.t, images.pixels.get(), o.indices.data() + first, noise_.alpha_bar.data(),
                      noise);
          fill_classes(b.classes, o.classes, o.indices.data() + first);
        },
        [&](const Batch& b, Tensor) { sum += mean(b.loss) * n; });
  }
  return sum / double(o.indices.size());
}

// ---- sampling

std::vector<float> Session::sample(const SampleOptions& o, const std::atomic<bool>* stop) {
  constexpr size_t kColumns = 7;
  const UNetConfig& c = net_.config();
  size_t rows = o.table.size() / kColumns;
  check(o.count > 0 && o.batch > 0 && rows > 0 && o.table.size() == rows * kColumns, "sample",
        "count and batch above 0 and a table of whole rows");
  check(o.weights->count == params_->count, "sample", "weights of as many values as the model has parameters");
  check(c.in_channels == c.out_channels, "sample", "a model with as many channels out as in");
  check(!c.classes || o.classes.size() == size_t(o.count), "sample", "one class for each image");
  for (int32_t k : o.classes)
    check(k >= 0 && k < c.classes, "sample", "classes below " + std::to_string(c.classes) + ", got " + std::to_string(k));

  use_weights(o.weights->data);
  std::vector<float> images(size_t(o.count) * image_size());
  size_t done = 0, all = rows * ((size_t(o.count) + o.batch - 1) / o.batch);
  for (int first = 0, n; first < o.count; first += n) {
    n = std::min(o.batch, o.count - first);
    size_t values = size_t(n) * image_size();
    Buffer state(2 * values);
    Tensor x = tensor(state.data, n, c.height, c.width, c.in_channels),
           x0_prev = tensor(state.data + values, n, c.height, c.width, c.in_channels);
    normal_fill(context_, x, o.key, o.first_image + uint32_t(first));
    reserve(n, false, false);
    for (size_t row = 0; row < rows; row++) {
      const double* r = o.table.data() + row * kColumns;
      SamplerStep step{real(r[1]),
                       real(r[2]),
                       real(r[3]),
                       real(r[4]),
                       real(r[5]),
                       real(r[6]),
                       noise_.prediction,
                       o.clip,
                       o.key,
                       uint32_t(row),
                       o.first_image + uint32_t(first)};
      pass(
          arena_, n, o.weights->data, nullptr, false, {}, stop,
          [&](const Batch& b) {
            device_copy(b.x.data, x.data, values);
            device_fill(b.t.data, real(r[0]), size_t(n));
            if (c.classes) assign(b.classes, o.classes.data() + first);
          },
          [&](const Batch&, Tensor output) { sampler_step(context_, x, x0_prev, output, step); });
      if (o.on_progress) o.on_progress(double(++done) / double(all));
    }
    if (!all_finite(context_, x.data, values)) throw NotFinite{"the samples contain NaN or infinite values: the parameters are damaged"};
    std::vector<real> drawn = values_of(x);
    for (size_t i = 0; i < values; i++) images[size_t(first) * image_size() + i] = float(std::clamp(drawn[i], real(-1), real(1)));
  }
  return images;
}

// ---- for tests

std::vector<double> Session::forward(const std::vector<double>& x, const std::vector<double>& t, const std::vector<int32_t>& classes,
                                     BufferPtr weights) {
  int n = int(t.size());
  check(n > 0 && x.size() == size_t(n) * image_size(), "forward", "x of as many images as t has times");
  check(weights->count == params_->count, "forward", "weights of as many values as the model has parameters");
  check(!net_.config().classes || classes.size() == t.size(), "forward", "one class an image");
  std::vector<double> output;
  use_weights(weights->data);
  reserve(n, false, false);
  pass(
      arena_, n, weights->data, nullptr, false, {}, nullptr,
      [&](const Batch& b) {
        assign(b.x, x.data()), assign(b.t, t.data());
        if (net_.config().classes) assign(b.classes, classes.data());
      },
      [&](const Batch&, Tensor y) {
        std::vector<real> values = values_of(y);
        output.assign(values.begin(), values.end());
      });
  return output;
}

Session::GradientResult Session::gradient(const std::vector<double>& x, const std::vector<double>& t, const std::vector<double>& target,
                                          const std::vector<int32_t>& classes, BufferPtr weights) {
  int n = int(t.size());
  const UNetConfig& c = net_.config();
  check(n > 0 && x.size() == size_t(n) * image_size() && target.size() == size_t(n) * c.height * c.width * c.out_channels, "gradient",
        "x and target of as many images as t has times");
  check(weights->count == params_->count, "gradient", "weights of as many values as the model has parameters");
  check(!c.classes || classes.size() == t.size(), "gradient", "one class an image");
  GradientResult result{0, {}, std::make_shared<Buffer>(params_->count)};
  use_weights(weights->data);
  reserve(n, true, true);
  pass(
      arena_, n, weights->data, result.gradient->data, true, {}, nullptr,
      [&](const Batch& b) {
        assign(b.x, x.data()), assign(b.t, t.data()), assign(b.target, target.data());
        if (c.classes) assign(b.classes, classes.data());
        device_fill(b.weight.data, 1, size_t(n));
      },
      [&](const Batch& b, Tensor y) {
        result.loss = mean(b.loss);
        std::vector<real> values = values_of(y);
        result.output.assign(values.begin(), values.end());
      });
  return result;
}

}  // namespace phx
