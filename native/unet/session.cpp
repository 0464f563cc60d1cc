#include "session.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

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

Block::~Block() { device_release(data_); }

void Block::reserve(size_t bytes) {
  if (bytes <= bytes_) return;
  device_release(data_);
  data_ = nullptr, bytes_ = 0;
  data_ = static_cast<char*>(device_allocate_zeros(bytes));
  bytes_ = bytes;
}

Images::Images(size_t count, int height, int width, int channels)
    : count(count), height(height), width(width), channels(channels), block(bytes()) {}

Session::Session(UNetConfig config, NoiseSchedule noise, int threads, Type precision)
    : net_(std::move(config)),
      noise_(std::move(noise)),
      context_(threads, device_bf16() == Bf16::products ? precision : Type::real),
      params_(std::make_shared<Buffer>(net_.parameter_count())),
      alpha_bar_(noise_.alpha_bar.size() * sizeof(double)),
      progress_(sizeof(Progress)) {
  check(!noise_.alpha_bar.empty(), "session", "a noise schedule of at least one step");
  check(precision == Type::real || device_bf16() != Bf16::none, "session", "a device that computes in bf16; this one does in fp32 only");
  device_put(alpha_bar_.data(), noise_.alpha_bar.data(), alpha_bar_.bytes());
  if (precision == Type::real || device_bf16() != Bf16::tensors) return;
  rounded_memory_ = std::make_shared<Buffer>(reals_of(Type::bf16, params_->count));
  rounded_ = {rounded_memory_->data, 1, 1, 1, int(params_->count), int(params_->count), Type::bf16};
}

BufferPtr Session::ema() { return lazily(ema_, params_->count); }
BufferPtr Session::adam_m() { return lazily(m_, params_->count); }
BufferPtr Session::adam_v() { return lazily(v_, params_->count); }

size_t Session::optimizer_bytes() const {
  size_t bytes = 0;
  for (const BufferPtr& b : {gradient_, m_, v_, ema_, anchor_, rounded_memory_})
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

// ---- steps

namespace {

constexpr size_t kRecordUnit = 16;
constexpr int kTrainRecords = 256;   // steps whose records lie on the device at once
constexpr size_t kPrograms = 8;      // recorded ones that a Session keeps
constexpr size_t kRowsInFlight = 8;  // of a sampler, between two reports of its progress

size_t rounded(size_t bytes) { return (bytes + kRecordUnit - 1) / kRecordUnit * kRecordUnit; }

// What a step reads, as it lies in `now_`: a header, then the batch's arrays. T: the header.
struct TrainHeader {
  Draw draw;
  Adam adam;
};
template <class T>
class Record {
 public:
  Record(void* at, int batch) : at_(static_cast<char*>(at)), batch_(size_t(batch)) {}
  static size_t bytes(int batch) { return rounded(sizeof(T)) + rounded(batch * sizeof(int32_t)) + 2 * rounded(batch * sizeof(real)); }
  T* header() const { return reinterpret_cast<T*>(at_); }
  int32_t* indices() const { return reinterpret_cast<int32_t*>(at_ + rounded(sizeof(T))); }
  real* classes() const { return reinterpret_cast<real*>(at_ + rounded(sizeof(T)) + rounded(batch_ * sizeof(int32_t))); }
  real* times() const { return classes() + rounded(batch_ * sizeof(real)) / sizeof(real); }

 private:
  char* at_;
  size_t batch_;
};

uint64_t bits(const void* pointer) { return uint64_t(reinterpret_cast<uintptr_t>(pointer)); }

}  // namespace

void Session::run_step(std::vector<uint64_t> baked, const std::function<void()>& work) {
  if (programs_.size() >= kPrograms && !programs_.contains(baked)) programs_.clear();
  Recorded& recorded = programs_[std::move(baked)];
  auto places = [&] {
    return std::vector<uint64_t>{bits(arena_.block()), bits(context_.block()), bits(records_.data()),
                                 bits(now_.data()),    bits(results_.data()),  bits(drawn_.data())};
  };
  if (!recorded.program || recorded.places != places()) recorded.program = std::make_unique<Program>();
  recorded.program->run(work);
  recorded.places = places();  // a first run may have moved the scratch memory
}

// ---- training

Session::TrainResult Session::train(const Images& images, const TrainOptions& o, const std::atomic<bool>* stop) {
  const Hyper& h = o.hyper;
  check(o.steps > 0 && h.batch > 0 && o.indices.size() == size_t(o.steps) * h.batch, "train", "steps·batch indices");
  check(!o.anchor || o.anchor->count == params_->count, "train", "an anchor of as many values as the model has parameters");
  check_images(images, o.indices, o.classes);
  lazily(gradient_, params_->count), adam_m(), adam_v();
  size_t count = params_->count, bytes = Record<TrainHeader>::bytes(h.batch);
  const real* anchor = nullptr;
  if (h.mu > 0 && o.anchor && device_is_host) {
    anchor = o.anchor->data;
  } else if (h.mu > 0 && o.anchor) {  // copied to one place, so that a recorded step serves every anchor
    device_copy(lazily(anchor_, count)->data, o.anchor->data, count);
    anchor = anchor_->data;
  }
  real* averaged = h.ema_decay > 0 ? ema()->data : nullptr;
  reserve(h.batch, true, true);
  now_.reserve(bytes), records_.reserve(bytes * kTrainRecords), results_.reserve(kTrainRecords * sizeof(StepResult));
  if (averaged && o.global_step == 0) device_copy(averaged, params_->data, count);
  if (o.adam_step == 0)
    for (const BufferPtr& moment : {m_, v_}) device_fill(moment->data, 0, count);
  use_weights(params_->data);

  Record<TrainHeader> now(now_.data(), h.batch);
  const Draw* draw = &now.header()->draw;
  Adam* adam = &now.header()->adam;
  auto* progress = reinterpret_cast<Progress*>(progress_.data());
  auto* results = reinterpret_cast<StepResult*>(results_.data());
  NoiseBatch noise{noise_.prediction, int(noise_.alpha_bar.size()), real(h.min_snr_gamma), h.flip, draw};
  auto step = [&] {
    Tensor losses;
    next_record(context_, now_.data(), records_.data(), bytes, progress);
    arena_.reset();
    pass(
        arena_, h.batch, params_->data, gradient_->data, true, {0, 0, draw}, stop,
        [&](const Batch& b) {
          noise_batch(context_, b.x, b.target, b.weight, b.t, images.pixels(), now.indices(),
                      reinterpret_cast<const double*>(alpha_bar_.data()), noise);
          device_copy(b.classes.data, now.classes(), b.classes.size());
        },
        [&](const Batch& b, Tensor) { losses = b.loss; });  // nothing takes memory of the arena until the next step
    if (anchor) proximal(context_, gradient_->data, params_->data, anchor, h.mu, count);
    finish_gradient(context_, results, progress, adam, losses, gradient_->data, count, h.clip);
    adam_step(context_, params_->data, m_->data, v_->data, averaged, rounded_, gradient_->data, count, adam);
  };
  std::vector<uint64_t> baked = captured(h, {0, bits(anchor), bits(averaged), bits(images.pixels())});

  TrainResult result;
  for (int first = 0, n; first < o.steps; first += n) {
    n = std::min(kTrainRecords, o.steps - first);
    std::vector<char> staged(bytes * size_t(n));
    for (int i = 0; i < n; i++) {
      Record<TrainHeader> record(staged.data() + bytes * size_t(i), h.batch);
      int64_t at = o.global_step + first + i;
      Adam a{h.lr, h.beta1, h.beta2, h.adam_eps, h.weight_decay, 1, 0, o.adam_step + first + i + 1};
      if (h.warmup_steps > 0) a.lr *= std::min(1.0, double(at + 1) / h.warmup_steps);
      a.ema_decay = std::min(h.ema_decay, double(1 + at) / double(10 + at));
      *record.header() = {{o.key, o.first_step + uint32_t(first + i)}, a};
      const int32_t* indices = o.indices.data() + size_t(first + i) * h.batch;
      for (int j = 0; j < h.batch; j++) {
        record.indices()[j] = indices[j];
        record.classes()[j] = real(net_.config().classes ? o.classes[indices[j]] : 0);
      }
    }
    device_put(records_.data(), staged.data(), staged.size());
    const Progress begin;
    device_put(progress, &begin, sizeof begin);
    int begun = 0;
    while (begun < n) {
      if (stop && stop->load(std::memory_order_relaxed)) throw Aborted{};
      run_step(baked, step);
      begun++;
      if (device_is_host && progress->halted) break;
    }
    std::vector<StepResult> found(begun);
    device_get(found.data(), results, found.size() * sizeof(StepResult));
    for (const StepResult& r : found) {
      if (!std::isfinite(r.loss) || !std::isfinite(r.grad_norm))
        throw NotFinite{"the loss (" + std::to_string(r.loss) + ") or the gradient's norm (" + std::to_string(r.grad_norm) + ") of step " +
                        std::to_string(o.first_step + result.losses.size()) + " is not finite"};
      result.losses.push_back(r.loss);
      result.grad_norms.push_back(r.grad_norm);
    }
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
    size_t bytes = Record<Draw>::bytes(n);
    reserve(n, false, true);
    now_.reserve(bytes);
    std::vector<char> staged(bytes);
    Record<Draw> record(staged.data(), n), now(now_.data(), n);
    *record.header() = {o.key, uint32_t(first / o.batch)};
    for (int j = 0; j < n; j++) {
      int32_t index = o.indices[first + j];
      record.indices()[j] = index;
      record.classes()[j] = real(net_.config().classes ? o.classes[index] : 0);
    }
    device_put(now_.data(), staged.data(), bytes);
    NoiseBatch noise{noise_.prediction, int(noise_.alpha_bar.size()), 0, false, now.header()};
    pass(
        arena_, n, o.weights->data, nullptr, true, {}, stop,
        [&](const Batch& b) {
          noise_batch(context_, b.x, b.target, b.weight, b.t, images.pixels(), now.indices(),
                      reinterpret_cast<const double*>(alpha_bar_.data()), noise);
          device_copy(b.classes.data, now.classes(), b.classes.size());
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
  auto* progress = reinterpret_cast<Progress*>(progress_.data());
  for (int first = 0, n; first < o.count; first += n) {
    n = std::min(o.batch, o.count - first);
    size_t values = size_t(n) * image_size(), bytes = Record<SamplerStep>::bytes(n);
    reserve(n, false, false);
    now_.reserve(bytes), records_.reserve(bytes * rows), drawn_.reserve(2 * values * sizeof(real));
    real* state = reinterpret_cast<real*>(drawn_.data());
    Tensor x = tensor(state, n, c.height, c.width, c.in_channels), x0_prev = tensor(state + values, n, c.height, c.width, c.in_channels);
    normal_fill(context_, x, o.key, o.first_image + uint32_t(first));

    std::vector<char> staged(bytes * rows);
    for (size_t row = 0; row < rows; row++) {
      Record<SamplerStep> record(staged.data() + bytes * row, n);
      const double* r = o.table.data() + row * kColumns;
      *record.header() = {real(r[1]),
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
      std::fill_n(record.times(), n, real(r[0]));
      for (int j = 0; j < n; j++) record.classes()[j] = real(c.classes ? o.classes[size_t(first) + j] : 0);
    }
    device_put(records_.data(), staged.data(), staged.size());
    const Progress begin;
    device_put(progress, &begin, sizeof begin);

    Record<SamplerStep> now(now_.data(), n);
    auto step = [&] {
      next_record(context_, now_.data(), records_.data(), bytes, progress);
      arena_.reset();
      pass(
          arena_, n, o.weights->data, nullptr, false, {}, stop,
          [&](const Batch& b) {
            device_copy(b.x.data, x.data, values);
            device_copy(b.t.data, now.times(), size_t(n));
            device_copy(b.classes.data, now.classes(), size_t(n));
          },
          [&](const Batch&, Tensor output) { sampler_step(context_, x, x0_prev, output, now.header()); });
    };
    for (size_t row = 0; row < rows; row++) {
      if (stop && stop->load(std::memory_order_relaxed)) throw Aborted{};
      run_step({1, uint64_t(n), bits(o.weights->data)}, step);
      ++done;
      if (!o.on_progress) continue;
      // Where work is queued: what is reported is done, and little is queued when a stop is asked for.
      if (done % kRowsInFlight == 0 || row + 1 == rows) device_wait();
      if (device_is_host || done % kRowsInFlight == 0 || row + 1 == rows) o.on_progress(double(done) / double(all));
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
