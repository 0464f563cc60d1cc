#include "binding/op_table.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "kernels/bf16.h"
#include "kernels/check.h"
#include "kernels/device.h"
#include "kernels/philox.h"

namespace phx {
namespace {

constexpr size_t kGuardWords = 32;
constexpr real kGuard = real(-0x1p99);  // exact in bf16

uint64_t key(const OpCall& c) { return uint64_t(c.number("key_lo", 0)) | uint64_t(c.number("key_hi", 0)) << 32; }
Prediction prediction(const OpCall& c) { return Prediction(int(c.number("prediction", 0))); }

const Draw* draw(OpCall& c) { return c.placed("draw", Draw{key(c), uint32_t(c.number("step", 0))}); }

Conv2d conv2d(const OpCall& c) { return {int(c.number("stride", 1)), int(c.number("pad", 1)), int(c.number("upsample", 1))}; }

GroupNorm group_norm(OpCall& c) {
  GroupNorm a;
  a.groups = int(c.number("groups", 1));
  a.eps = real(c.number("eps", 1e-6));
  a.silu = c.number("silu", 1) != 0;
  a.dropout = {float(c.number("dropout", 0)), uint32_t(c.number("layer", 0)), draw(c)};
  return a;
}

const Adam* adam(OpCall& c) {
  Adam a{c.number("lr", 1e-3),       c.number("beta1", 0.9),       c.number("beta2", 0.999),
         c.number("eps", 1e-8),      c.number("weight_decay", 0),  c.number("grad_scale", 1),
         c.number("ema_decay", 0.9), int64_t(c.number("step", 1)), int64_t(c.number("halted", 0))};
  return c.placed("adam", a);
}

using Op = std::function<void(Context&, OpCall&)>;

void result(OpCall& c, const std::vector<double>& values) {
  int shape[4] = {1, 1, 1, int(values.size())};
  c.add("result", values.data(), values.size(), shape);
}

// A value in the device's memory that the op changes.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(const T& value) : place_(static_cast<T*>(device_allocate_zeros(sizeof value))) {
    device_put(place_, &value, sizeof value);
  }
  ~OnDevice() { device_release(place_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  T* at() const { return place_; }
  T get() const {
    T value;
    device_get(&value, place_, sizeof value);
    return value;
  }

 private:
  T* const place_;
};

// The tensors of a call by the names of ops.h.
#define T(name) c.tensor(#name)
#define G(name) c.grad(#name)
#define OP(name, ...)                                               \
  {                                                                 \
#name, [](Context& x, OpCall& c) { (void)c; name(x, __VA_ARGS__); } \
  }

constexpr size_t kStepResults = 4;

// The step `begun` of kStepResults: their results, the optimizer's grad_scale, and whether it and the program are halted. -1: not finite.
void finish(Context& x, OpCall& c) {
  OnDevice<std::array<StepResult, kStepResults>> results({});
  OnDevice<Progress> progress({uint32_t(c.number("begun", 1)), 0});
  OnDevice<Adam> adam({});
  finish_gradient(x, results.at()->data(), progress.at(), adam.at(), T(loss), T(g).data, T(g).size(), c.number("clip", 0));
  bool halted = adam.get().halted != 0;
  std::vector<double> values;
  for (const StepResult& r : results.get())
    for (double value : {r.loss, r.grad_norm}) values.push_back(std::isfinite(value) ? value : -1);
  values.insert(values.end(), {halted ? -1 : adam.get().grad_scale, double(halted), double(progress.get().halted)});
  result(c, values);
}

void next(Context& x, OpCall& c) {
  OnDevice<Progress> progress({uint32_t(c.number("begun", 0)), 0});
  next_record(x, T(now).data, T(records).data, size_t(T(now).c) * sizeof(real), progress.at());
  result(c, {double(progress.get().begun), double(progress.get().halted)});
}

// Updates' bytes are tensors of the values 0 to 255; their ops work in host memory (ops.h).
constexpr uint8_t kGuardByte = 0xa5;

template <class Encode>
void encoded(Context& x, OpCall& c, Encode encode, size_t length) {
  check(T(bytes).size() == length, "op", std::to_string(length) + " bytes");
  OnHost values(T(x).data, T(x).size()), out(T(bytes).data, length, false);
  std::vector<uint8_t> bytes(length + kGuardWords, kGuardByte);
  encode(x, bytes.data(), values.data(), T(x).size());
  check(std::all_of(bytes.begin() + ptrdiff_t(length), bytes.end(), [](uint8_t b) { return b == kGuardByte; }), "op",
        "nothing written behind the bytes");
  std::copy_n(bytes.begin(), length, out.data());
  out.put_back();
}

std::vector<uint8_t> bytes_of(const OpCall& c) {
  Tensor bytes = c.host("bytes");
  return std::vector<uint8_t>(bytes.data, bytes.data + bytes.size());
}

template <class Decode>
void decoded(OpCall& c, Decode decode) {
  std::vector<uint8_t> bytes = bytes_of(c);
  OnHost values(T(x).data, T(x).size(), false);
  decode(values.data(), bytes, T(x).size());
  values.put_back();
}

const std::map<std::string, Op>& table() {
  static const std::map<std::string, Op> ops = {
      OP(conv2d_forward, T(y), T(x), T(temb), T(residual), (Shortcut{T(skip0), T(skip1), T(skip_w), T(skip_b)}), T(w), T(b), conv2d(c)),
      OP(conv2d_backward, G(dx), T(dtemb), T(dw), T(db), T(dy), T(x), T(w), conv2d(c)),
      OP(linear_forward, T(y), T(x0), T(x1), T(residual), T(w), T(b)),
      OP(linear_backward, G(dx0), G(dx1), T(dw), T(db), T(dy), T(x0), T(x1), T(w)),
      OP(group_norm_forward, T(y), T(mean), T(rstd), T(x0), T(x1), T(w), T(b), group_norm(c)),
      OP(group_norm_backward, G(dx0), G(dx1), T(dw), T(db), T(dy), T(mean), T(rstd), T(x0), T(x1), T(w), T(b), group_norm(c)),
      OP(attention_forward, T(o), T(lse), T(qkv), int(c.number("heads", 1))),
      OP(attention_backward, T(dqkv), T(d_o), T(lse), T(qkv), T(o), int(c.number("heads", 1))),
      OP(time_embedding_forward, T(y), T(t), c.number("flip_sin_to_cos", 0) != 0, int(c.number("freq_shift", 1))),
      OP(class_embedding_forward, T(y), T(x), T(classes), T(table)),
      OP(class_embedding_backward, T(dtable), T(dy), T(classes)),
      OP(silu_forward, T(y), T(x)),
      OP(silu_backward, G(dx), T(dy), T(x)),
      OP(pad_forward, T(y), T(x)),
      OP(pad_backward, G(dx), T(dy)),
      OP(mse_forward, T(loss), T(y), T(target), T(weight)),
      OP(mse_backward, T(dy), T(y), T(target), T(weight)),
      OP(convert, T(y), T(x)),
      OP(add, T(y), T(x)),
      OP(normal_fill, T(x), key(c), uint32_t(c.number("first_image", 0))),
      OP(axpy, T(y).data, T(x).data, c.number("a", 1), T(y).size()),
      OP(scale, T(y).data, c.number("a", 1), T(y).size()),
      OP(subtract, T(y).data, T(a).data, T(b).data, T(y).size()),
      OP(round_bf16, T(y).data, T(x).data, T(y).size()),
      OP(interpolate, T(y).data, T(x).data, c.number("a", 1), T(y).size()),
      OP(proximal, T(g).data, T(p).data, T(anchor).data, c.number("mu", 1), T(g).size()),
      OP(adam_step, T(p).data, T(m).data, T(v).data, T(ema).data, T(rounded), T(g).data, T(p).size(), adam(c)),
      {"server_step",
       [](Context& x, OpCall& c) {
         ServerStep a{ServerKind(int(c.number("kind", 0))), c.number("lr", 1), c.number("beta1", 0.9), c.number("beta2", 0.99), c.number("tau", 1e-3)};
         server_step(x, T(p).data, T(delta).data, T(m).data, T(v).data, T(p).size(), a);
       }},
      {"sum_of_squares", [](Context& x, OpCall& c) { result(c, {sum_of_squares(x, T(g).data, T(g).size())}); }},
      {"dot", [](Context& x, OpCall& c) { result(c, {dot(x, T(a).data, T(b).data, T(a).size())}); }},
      {"all_finite", [](Context& x, OpCall& c) { result(c, {double(all_finite(x, T(a).data, T(a).size()))}); }},
      {"sampler_step",
       [](Context& x, OpCall& c) {
         SamplerStep a{real(c.number("alpha", 1)), real(c.number("sigma", 0)), real(c.number("cx", 0)), real(c.number("c0", 1)),
                       real(c.number("c1", 0)),    real(c.number("cz", 0)),    prediction(c),           c.number("clip", 1) != 0,
                       key(c),                     uint32_t(c.number("step", 0)), uint32_t(c.number("first_image", 0))};
         sampler_step(x, T(x), T(x0_prev), T(m), c.placed("sampler", a));
       }},
      {"noise_batch",
       [](Context& x, OpCall& c) {
         Tensor source = c.host("images"), picks = c.host("indices"), bars = c.host("alpha_bar");
         std::vector<uint8_t> images(source.data, source.data + source.size());
         std::vector<int32_t> indices(picks.data, picks.data + picks.size());
         std::vector<double> alpha_bar(bars.data, bars.data + bars.size());
         NoiseBatch a{prediction(c), int(alpha_bar.size()), real(c.number("min_snr_gamma", 0)), c.number("flip", 0) != 0, draw(c)};
         noise_batch(x, T(xt), T(target), T(weight), T(t), c.placed("u8 images", images), c.placed("i32 indices", indices),
                     c.placed("f64 alpha_bar", alpha_bar), a);
       }},
      {"next_record", next},
      {"finish_gradient", finish},
      {"encode_bf16", [](Context& x, OpCall& c) { encoded(x, c, encode_bf16, 2 * T(x).size()); }},
      {"encode_int8", [](Context& x, OpCall& c) { encoded(x, c, encode_int8, int8_bytes(T(x).size())); }},
      {"encode_largest",
       [](Context& x, OpCall& c) {
         OnHost values(T(x).data, T(x).size());
         std::vector<uint8_t> bytes = encode_largest(x, values.data(), T(x).size(), size_t(c.number("k", 1)));
         result(c, std::vector<double>(bytes.begin(), bytes.end()));
       }},
      {"decode_bf16",
       [](Context& x, OpCall& c) { decoded(c, [&](real* to, const auto& bytes, size_t n) { decode_bf16(x, to, bytes.data(), n); }); }},
      {"decode_int8",
       [](Context& x, OpCall& c) { decoded(c, [&](real* to, const auto& bytes, size_t n) { decode_int8(x, to, bytes.data(), n); }); }},
      {"decode_largest",
       [](Context& x, OpCall& c) {
         decoded(c, [&](real* to, const auto& bytes, size_t n) { decode_largest(x, to, n, bytes.data(), bytes.size()); });
       }},
      {"trimmed_mean",
       [](Context& x, OpCall& c) {
         OnHost rows(T(rows).data, T(rows).size()), mean(T(y).data, T(y).size(), false);
         trimmed_mean(x, mean.data(), rows.data(), size_t(T(rows).n), T(y).size(), size_t(c.number("trim", 0)));
         mean.put_back();
       }},
      {"row_distances",
       [](Context& x, OpCall& c) {
         const size_t n = size_t(T(rows).n);
         OnHost rows(T(rows).data, T(rows).size());
         std::vector<double> squared(n * n);
         row_distances(x, squared.data(), rows.data(), n, T(rows).size() / n);
         result(c, squared);
       }},
  };
  return ops;
}

}  // namespace

void OpCall::add(const std::string& name, const double* values, size_t count, const int shape[4], bool repeated) {
  Tensor t{nullptr, shape[0], shape[1], shape[2], shape[3], int(number("ld_" + name, shape[3]))};
  if (count && (repeated ? count > t.size() : count != t.size()))
    fail("tensor " + name + ": " + std::to_string(count) + " values for a shape of " + std::to_string(t.size()));
  if (t.ld < t.c) fail("tensor " + name + ": pixels " + std::to_string(t.ld) + " apart, with " + std::to_string(t.c) + " channels");
  std::vector<real>& block = blocks_[name];
  block.assign((t.rows() - 1) * t.ld + t.c + 2 * kGuardWords, kGuard);
  t.data = block.data() + kGuardWords;
  for (size_t row = 0, next = 0; row < t.rows(); row++) {
    for (int c = 0; c < t.c; c++) {
      t.row(row)[c] = count ? real(values[next]) : std::numeric_limits<real>::quiet_NaN();
      if (++next >= count) next = 0;
    }
  }
  real*& place = places_[name];
  device_release(std::exchange(place, nullptr));
  Type& type = types_[name] = number("bf16_" + name, 0) != 0 ? Type::bf16 : Type::real;
  check(type == Type::real || device_bf16() == Bf16::tensors, "op", "tensors in fp32: this backend takes no bf16");
  place = device_allocate(reals_of(type, block.size()));
  if (type == Type::real) {
    device_put(place, block.data(), block.size() * sizeof(real));
  } else {
    std::vector<BFloat16> packed(block.size());
    for (size_t i = 0; i < packed.size(); i++) packed[i] = to_bf16(block[i]);
    device_put(place, packed.data(), packed.size() * sizeof(BFloat16));
  }
  tensors_[name] = t;
  given_[name] = count > 0;
}

OpCall::~OpCall() {
  for (const auto& [name, place] : places_) device_release(place);
  for (const auto& [name, block] : placed_) device_release(block.first);
}

const void* OpCall::place(const std::string& name, const void* bytes, size_t count) {
  auto& [block, content] = placed_[name];
  if (settled_ && block) return block;
  const auto* from = static_cast<const uint8_t*>(bytes);
  if (!block || !std::equal(content.begin(), content.end(), from, from + count)) {
    device_release(std::exchange(block, nullptr));
    block = device_allocate_zeros(count);
    device_put(block, bytes, count);
    content.assign(from, from + count);
  }
  return block;
}

Tensor OpCall::tensor(const std::string& name) const {
  Tensor t = host(name);
  if (!t) return t;
  t.type = types_.at(name);
  t.data = places_.at(name) + reals_of(t.type, kGuardWords);
  return t;
}

Tensor OpCall::host(const std::string& name) const {
  auto found = tensors_.find(name);
  return found == tensors_.end() ? Tensor{} : found->second;
}

Grad OpCall::grad(const std::string& name) const {
  auto found = given_.find(name);
  return {tensor(name), found != given_.end() && found->second};
}

double OpCall::number(const std::string& name, double otherwise) const {
  auto found = attributes.find(name);
  return found == attributes.end() ? otherwise : found->second;
}

void OpCall::collect() {
  for (auto& [name, block] : blocks_) {
    if (types_.at(name) == Type::real) {
      device_get(block.data(), places_.at(name), block.size() * sizeof(real));
    } else {
      std::vector<BFloat16> packed(block.size());
      device_get(packed.data(), places_.at(name), packed.size() * sizeof(BFloat16));
      for (size_t i = 0; i < packed.size(); i++) block[i] = from_bf16(packed[i]);
    }
    for (size_t i = 0; i < kGuardWords; i++)
      if (block[i] != kGuard || block[block.size() - 1 - i] != kGuard)
        throw std::runtime_error("the op wrote outside tensor '" + name + "' (" + (block[i] != kGuard ? "before" : "after") + " it)");
    const Tensor& t = tensors_.at(name);
    for (size_t row = 0; row + 1 < t.rows(); row++)
      for (int c = t.c; c < t.ld; c++)
        if (t.row(row)[c] != kGuard) throw std::runtime_error("the op wrote between the pixels of tensor '" + name + "'");
  }
}

void run_op(const std::string& name, OpCall& call, Context& context) {
  auto found = table().find(name);
  if (found == table().end()) fail("no op is named '" + name + "'");
  found->second(context, call);
}

std::vector<double> time_op(const std::string& name, OpCall& call, Context& context, int launches, int runs) {
  using Clock = std::chrono::steady_clock;
  run_op(name, call, context);  // puts the attributes in place and sizes the scratch memory
  call.settle();
  Program program;
  auto run = [&] {
    program.run([&] {
      for (int i = 0; i < launches; i++) run_op(name, call, context);
    });
    device_wait();
  };
  for (int i = 0; i < 3 && !device_is_host; i++) run();  // an ordinary run, the recording, and one to warm up
  std::vector<double> nanoseconds;
  for (int i = 0; i < runs; i++) {
    auto start = Clock::now();
    run();
    nanoseconds.push_back(std::chrono::duration<double, std::nano>(Clock::now() - start).count() / launches);
  }
  return nanoseconds;
}

}  // namespace phx
