#include "unet/tape.h"

#include <cstdint>
#include <utility>

#include "kernels/check.h"
#include "kernels/device.h"

namespace phx {

namespace {

Tensor tensor_of(const Var& x) { return x ? x->tensor : Tensor{}; }

}  // namespace

Value::Value(Arena& arena, Tensor tensor, bool owned, bool wants_gradient)
    : tensor(tensor), wants_gradient(wants_gradient), arena_(arena), owned_(owned) {}

Value::~Value() {
  if (owned_) arena_.release(tensor.data);
  if (gradient_) arena_.release(gradient_.data);
}

Grad Value::gradient_in() {
  if (!wants_gradient) return {};
  bool first = !gradient_;
  if (first)
    gradient_ = phx::tensor(arena_.take(reals_of(tensor.type, tensor.size())), tensor.n, tensor.h, tensor.w, tensor.c, tensor.type);
  return {gradient_, !first};
}

void Value::add_gradient(Context& context, Value& from, bool run) {
  if (!wants_gradient) return;
  if (!gradient_)
    gradient_ = std::exchange(from.gradient_, Tensor{});
  else if (run)
    add(context, gradient_, from.gradient_);
}

Tape::Tape(Context& context, Arena& arena, const real* weights, real* gradients, const std::atomic<bool>* stop, Tensor rounded)
    : context_(context), arena_(arena), weights_(weights), gradients_(gradients), stop_(stop), rounded_(rounded) {}

Var Tape::input(Tensor tensor) { return std::make_shared<Value>(arena_, tensor, false, false); }

Var Tape::output(int n, int h, int w, int64_t c) {
  // Ops count pixels and channels in int.
  check(double(n) * h * w <= INT32_MAX && c <= INT32_MAX, "unet",
        "fewer than 2^31 pixels a batch and scores a head; got " + std::to_string(n) + " images");
  Type type = type_of(c);
  return std::make_shared<Value>(arena_, tensor(arena_.take(reals_of(type, size_t(n) * h * w * c)), n, h, w, int(c), type), true,
                                 recording());
}

Var Tape::statistic(int n, int64_t count) {
  check(count <= INT32_MAX, "unet", "fewer than 2^31 scores a head; got " + std::to_string(n) + " images");
  return std::make_shared<Value>(arena_, matrix(arena_.take(size_t(n) * count), n, int(count)), true, false);
}

Tensor Tape::weight(Parameter p) const { return tensor(const_cast<real*>(weights_) + p.offset, p.n, p.h, p.w, p.c); }
Tensor Tape::matrix_weight(Parameter p) const {
  if (!rounded_) return weight(p);
  return tensor(rounded_.channels(int(p.offset), 0).data, p.n, p.h, p.w, p.c, Type::bf16);
}
Tensor Tape::gradient(Parameter p) const { return tensor(gradients_ + p.offset, p.n, p.h, p.w, p.c); }

void Tape::run(const std::function<void()>& work) {
  if (arena_.dry()) return;
  if (stop_ && stop_->load(std::memory_order_relaxed)) throw Aborted{};
  work();
}

void Tape::record(std::function<void()> backward, bool has_parameters) {
  if (recording()) recorded_.push_back({std::move(backward), has_parameters});
}

void Tape::backward() {
  BackwardStage stage(context_);
  while (!recorded_.empty()) {
    Recorded op = std::move(recorded_.back());
    recorded_.pop_back();
    op.backward();
    if (op.has_parameters) stage.keep(std::move(op.backward));
  }  // op goes, and with it the Vars that it held
  run([&] { stage.finish(); });
}

Var Tape::conv2d(Var x, Parameter w, Parameter b, Conv2d a, const Added& to) {
  const Tensor& in = x->tensor;
  Var y = output(in.n, in.h * a.upsample / a.stride, in.w * a.upsample / a.stride, w.n);
  auto slice = [column = to.temb_column, k = w.n](const Tensor& t) { return t ? t.channels(column, k) : Tensor{}; };
  run([&] {
    Shortcut shortcut;
    if (to.shortcut0) shortcut = {to.shortcut0->tensor, tensor_of(to.shortcut1), matrix_weight(to.shortcut_w), weight(to.shortcut_b)};
    conv2d_forward(context_, y->tensor, in, slice(tensor_of(to.temb)), tensor_of(to.residual), shortcut, matrix_weight(w), weight(b), a);
  });
  record(
      [=, this] {
        Grad dx = x->gradient_in();
        // Each convolution has columns of its own in the shared embedding, so the slice is written once.
        Tensor dtemb = to.temb ? slice(to.temb->gradient_in().t) : Tensor{};
        run([&] { conv2d_backward(context_, dx, dtemb, gradient(w), gradient(b), y->gradient(), x->tensor, matrix_weight(w), a); });
        if (to.shortcut0) linear_gradients(*y, to.shortcut0, to.shortcut1, to.shortcut_w, to.shortcut_b);
        if (to.residual) to.residual->add_gradient(context_, *y, !arena_.dry());
      },
      true);
  return y;
}

void Tape::linear_gradients(const Value& y, const Var& x0, const Var& x1, Parameter w, Parameter b) {
  Grad dx0 = x0->gradient_in(), dx1 = x1 ? x1->gradient_in() : Grad{};
  run([&] { linear_backward(context_, dx0, dx1, gradient(w), gradient(b), y.gradient(), x0->tensor, tensor_of(x1), matrix_weight(w)); });
}

Var Tape::linear(Var x0, Var x1, Parameter w, Parameter b, Var residual) {
  const Tensor& in = x0->tensor;
  Var y = output(in.n, in.h, in.w, w.n);
  run([&] { linear_forward(context_, y->tensor, in, tensor_of(x1), tensor_of(residual), matrix_weight(w), weight(b)); });
  record(
      [=, this] {
        linear_gradients(*y, x0, x1, w, b);
        if (residual) residual->add_gradient(context_, *y, !arena_.dry());
      },
      true);
  return y;
}

Var Tape::group_norm(Var x0, Var x1, Parameter w, Parameter b, GroupNorm a) {
  const Tensor& in = x0->tensor;
  Var y = output(in.n, in.h, in.w, w.c);
  Var mean = statistic(in.n, a.groups), rstd = statistic(in.n, a.groups);
  if (!recording()) a.dropout.p = 0;
  run([&] { group_norm_forward(context_, y->tensor, mean->tensor, rstd->tensor, in, tensor_of(x1), weight(w), weight(b), a); });
  record([=, this] {
    Grad dx0 = x0->gradient_in(), dx1 = x1 ? x1->gradient_in() : Grad{};
    run([&] {
      group_norm_backward(context_, dx0, dx1, gradient(w), gradient(b), y->gradient(), mean->tensor, rstd->tensor, x0->tensor,
                          tensor_of(x1), weight(w), weight(b), a);
    });
  });
  return y;
}

Var Tape::attention(Var qkv, int heads) {
  const Tensor& in = qkv->tensor;
  Var o = output(in.n, in.h, in.w, in.c / 3), lse = statistic(in.n, int64_t(heads) * in.h * in.w);
  run([&] { attention_forward(context_, o->tensor, lse->tensor, in, heads); });
  record([=, this] {
    Grad dqkv = qkv->gradient_in();
    run([&] { attention_backward(context_, dqkv.t, o->gradient(), lse->tensor, qkv->tensor, o->tensor, heads); });
  });
  return o;
}

Var Tape::time_embedding(Tensor t, int dim, bool flip_sin_to_cos, int freq_shift) {
  Tensor place = matrix(nullptr, int(t.size()), dim);
  place.type = type_of(dim);
  place.data = arena_.take(reals_of(place.type, place.size()));
  Var y = std::make_shared<Value>(arena_, place, true, false);
  run([&] { time_embedding_forward(context_, y->tensor, t, flip_sin_to_cos, freq_shift); });
  return y;
}

Var Tape::class_embedding(Var x, Tensor classes, Parameter table) {
  Var y = output(x->tensor.n, 1, 1, x->tensor.c);
  run([&] { class_embedding_forward(context_, y->tensor, x->tensor, classes, weight(table)); });
  record([=, this] {
    run([&] { class_embedding_backward(context_, gradient(table), y->gradient(), classes); });
    x->add_gradient(context_, *y, !arena_.dry());
  });
  return y;
}

Var Tape::silu(Var x) {
  const Tensor& in = x->tensor;
  Var y = output(in.n, in.h, in.w, in.c);
  run([&] { silu_forward(context_, y->tensor, in); });
  record([=, this] {
    Grad dx = x->gradient_in();
    run([&] { silu_backward(context_, dx, y->gradient(), x->tensor); });
  });
  return y;
}

Var Tape::resize(Var x, int height, int width) {
  const Tensor& in = x->tensor;
  if (in.h == height && in.w == width) return x;
  Var y = output(in.n, height, width, in.c);
  run([&] { pad_forward(context_, y->tensor, in); });
  record([=, this] {
    Grad dx = x->gradient_in();
    if (dx) run([&] { pad_backward(context_, dx, y->gradient()); });
  });
  return y;
}

Var Tape::own(Var x, int height, int width, int channels, std::function<void(Tensor y, Tensor x)> forward,
              std::function<void(Grad dx, Tensor dy)> backward) {
  Var y = output(x->tensor.n, height, width, channels);
  run([&] { forward(y->tensor, x->tensor); });
  record([=, this] {
    Grad dx = x->gradient_in();
    if (dx) run([&] { backward(dx, y->gradient()); });
  });
  return y;
}

void Tape::loss(Var y, const std::function<void()>& forward, const std::function<void(Tensor dy)>& gradient) {
  run(forward);
  if (!recording()) return;
  Grad dy = y->gradient_in();
  run([&] { gradient(dy.t); });
}

}  // namespace phx
