// The tape: runs the ops of a model forward and remembers how to run them backward.
//
// A model is written once, as calls of the Tape's methods on Vars. Each method takes its output from the arena, runs the op, and, when
// recording, pushes a closure that runs the op's backward. `backward` replays the closures last first. A Var is a counted handle: when the
// last one to a value goes (a C++ scope ends, or a closure has run), its memory returns to the arena, so what is kept for backward
// and how much memory a step needs follow from the program text. On a dry arena no op runs: that is how memory is planned.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/ops.h"
#include "unet/arena.h"

namespace phx {

// A parameter: where it lies in the parameter vector (and its gradient in the gradient vector), and its shape as a tensor.
struct Parameter {
  size_t offset = 0;
  int n = 0, h = 1, w = 1, c = 0;
  size_t count() const { return size_t(n) * h * w * c; }
};

// A value on the tape with, during backward, its gradient.
class Value {
 public:
  Value(Arena& arena, Tensor tensor, bool owned, bool wants_gradient);
  ~Value();
  Value(const Value&) = delete;
  Value& operator=(const Value&) = delete;

  const Tensor tensor;
  const bool wants_gradient;
  // The gradient to write or accumulate into (allocated at its first use); empty if none is wanted.
  Grad gradient_in();
  // The gradient that arrived; all consumers have run.
  Tensor gradient() const { return gradient_; }
  // Adds g to the gradient; takes over g's memory if it is the first to come.
  void add_gradient(Context&, Value& from, bool run);

 private:
  Arena& arena_;
  const bool owned_;
  Tensor gradient_;
};
using Var = std::shared_ptr<Value>;

struct Aborted {};  // thrown between two ops when the stop flag is set

class Tape {
 public:
  // weights: the parameter vector. gradients: the gradient vector, or null: nothing is recorded (and dropout is off).
  // rounded: the parameter vector in bf16; then convolutions and linear layers read their weights there and activations are kept in bf16,
  // but for those whose pixels fill no 16-byte lines, such as images. Empty: everything is in reals.
  Tape(Context& context, Arena& arena, const real* weights, real* gradients, const std::atomic<bool>* stop = nullptr, Tensor rounded = {});

  // Values from outside; they get no gradient.
  Var input(Tensor tensor);

  // What a convolution's result is added to; of the time embedding, its columns from temb_column on.
  struct Added {
    Var temb = {};
    int temb_column = 0;
    Var residual = {};
    Var shortcut0 = {}, shortcut1 = {};
    Parameter shortcut_w = {}, shortcut_b = {};
  };
  Var conv2d(Var x, Parameter w, Parameter b, Conv2d attributes) { return conv2d(x, w, b, attributes, {}); }
  Var conv2d(Var x, Parameter w, Parameter b, Conv2d attributes, const Added& to);
  Var linear(Var x0, Var x1, Parameter w, Parameter b, Var residual = {});
  Var group_norm(Var x0, Var x1, Parameter w, Parameter b, GroupNorm attributes);
  Var attention(Var qkv, int heads);
  Var time_embedding(Tensor t, int dim, bool flip_sin_to_cos, int freq_shift);
  Var class_embedding(Var x, Tensor classes, Parameter table);
  Var silu(Var x);
  // Pads with zeros, or crops, to height and width.
  Var resize(Var x, int height, int width);

  // An op of the model's own, from x to (N,height,width,channels).
  Var own(Var x, int height, int width, int channels, std::function<void(Tensor y, Tensor x)> forward,
          std::function<void(Grad dx, Tensor dy)> backward);

  // Ends a forward pass: `forward` works out the loss, `gradient`, when recording, writes its gradient by y.
  void loss(Var y, const std::function<void()>& forward, const std::function<void(Tensor dy)>& gradient);
  // Replays everything backward.
  void backward();

  bool recording() const { return gradients_ != nullptr; }
  // Runs work unless this is a dry run; throws Aborted if a stop is asked for.
  void run(const std::function<void()>& work);
  Context& context() { return context_; }

 private:
  Var output(int n, int h, int w, int64_t c);
  Var statistic(int n, int64_t count);  // always reals
  Type type_of(int64_t channels) const { return rounded_ && channels % 8 == 0 ? Type::bf16 : Type::real; }
  Tensor weight(Parameter p) const;
  Tensor matrix_weight(Parameter p) const;
  Tensor gradient(Parameter p) const;
  void linear_gradients(const Value& y, const Var& x0, const Var& x1, Parameter w, Parameter b);
  // has_parameters: convolutions and linear layers, whose tensors a device may read for longer (BackwardStage in device.h).
  void record(std::function<void()> backward, bool has_parameters = false);

  Context& context_;
  Arena& arena_;
  const real* weights_;
  real* gradients_;
  const std::atomic<bool>* stop_;
  const Tensor rounded_;
  struct Recorded {
    std::function<void()> backward;
    bool has_parameters;
  };
  std::vector<Recorded> recorded_;
};

}  // namespace phx
