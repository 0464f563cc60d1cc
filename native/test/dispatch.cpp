// dispatch_list: which kernels the ops of two networks are sent to (kernels/cuda/gemm/dispatch.h), for chapter 77. The networks run forward
// and backward on their tape, with ops that compute nothing and memory that is not there.
#include <cstdio>
#include <map>
#include <set>
#include <string>

#include "kernels/cuda/gemm/dispatch.h"
#include "kernels/device.h"
#include "unet/unet.h"

namespace phx {
namespace {

// What is known of the calls of one shape: the families by architecture and pass.
struct Calls {
  int count = 0;
  std::set<std::string> families[2][3];
};
std::vector<std::string> in_order;
std::map<std::string, Calls> calls;

// conv: of the convolution that a linear layer is the shortcut around, whose kernels may add it.
void note(const std::string& call, const Product& p, const Product* conv = nullptr) {
  constexpr const char* names[] = {"wgmma", "mma", "narrow", "generic"};
  if (!calls.contains(call)) in_order.push_back(call);
  Calls& c = calls[call];
  c.count += p.pass == Pass::forward;
  for (int i = 0; i < 2; i++) {
    int architecture = i ? 90 : 80;
    bool added = conv && adds(family_of(*conv, architecture), {p.x0, p.x1, p.w, {}}, *conv->window);
    c.families[i][int(p.pass)].insert(added ? "added" : names[int(family_of(p, architecture))]);
  }
}

std::string pixels_of(const Tensor& t) { return std::to_string(t.h) + "x" + std::to_string(t.w) + "x" + std::to_string(t.c); }
std::string call_of(const Tensor& y, const Tensor& x) { return "convolution " + pixels_of(x) + " to " + pixels_of(y); }
std::string call_of(const Tensor& y, const Tensor& x0, const Tensor& x1) {
  return "linear, " + std::to_string(y.rows()) + " rows, " + std::to_string(x0.c) + (x1 ? " + " + std::to_string(x1.c) : "") + " to " +
         std::to_string(y.c);
}

std::string families_of(const std::set<std::string> (&passes)[3]) {
  std::string line;
  for (const auto& families : passes) {
    std::string names;
    for (const std::string& name : families) names += (names.empty() ? "" : "|") + name;
    if (families.empty()) names = "-";
    names.resize(9, ' ');
    line += names;
  }
  return line;
}

real* somewhere() { return reinterpret_cast<real*>(uintptr_t(1) << 40); }

void list(const char* name, const UNetConfig& config, int batch) {
  UNet net(config);
  Context context(1);
  Arena dry, arena;
  for (Arena* a : {&dry, &arena}) {
    int count = int(net.parameter_count());
    Tape tape(context, *a, somewhere(), somewhere(), nullptr, {somewhere(), 1, 1, 1, count, count, Type::bf16});
    auto images = [&](int channels) { return tensor(somewhere(), batch, config.height, config.width, channels); };
    Tensor each = vector(somewhere(), batch);
    tape.loss(
        net.forward(tape, {tape.input(images(config.in_channels)), each, each, {}}).y, [] {}, [](Tensor) {});
    tape.backward();
    if (a == &dry) arena.commit(dry.high_water());
  }
  std::printf("%s, batch %d\ntimes %-42s 8.0 y    8.0 dx   8.0 dw   9.0 y    9.0 dx   9.0 dw\n", name, batch, "op");
  for (const std::string& call : in_order) {
    const Calls& c = calls[call];
    std::string line = families_of(c.families[0]) + families_of(c.families[1]);
    std::printf("%5d %-42s %s\n", c.count, call.c_str(), line.substr(0, line.find_last_not_of(' ') + 1).c_str());
  }
  in_order.clear();
  calls.clear();
}

}  // namespace

// ---- the ops of the table

void conv2d_forward(Context&, Tensor y, Tensor x, Tensor temb, Tensor residual, Shortcut s, Tensor w, Tensor, Conv2d a) {
  Product p{Pass::forward, y, x, {}, w, temb, residual, a};
  note(call_of(y, x), p);
  if (s.x0) note(call_of(y, s.x0, s.x1), {Pass::forward, y, s.x0, s.x1, s.w, {}, residual, {}}, &p);
}
void conv2d_backward(Context&, Grad dx, Tensor, Tensor, Tensor, Tensor dy, Tensor x, Tensor w, Conv2d a) {
  if (dx) note(call_of(dy, x), {Pass::input_gradient, dy, dx.t, {}, w, {}, {}, a});
  note(call_of(dy, x), {Pass::weight_gradient, dy, x, {}, {}, {}, {}, a});
}
void linear_forward(Context&, Tensor y, Tensor x0, Tensor x1, Tensor residual, Tensor w, Tensor) {
  note(call_of(y, x0, x1), {Pass::forward, y, x0, x1, w, {}, residual, {}});
}
void linear_backward(Context&, Grad dx0, Grad dx1, Tensor, Tensor, Tensor dy, Tensor x0, Tensor x1, Tensor w) {
  if (dx0 || dx1) note(call_of(dy, x0, x1), {Pass::input_gradient, dy, dx0.t, dx1.t, w, {}, {}, {}});
  note(call_of(dy, x0, x1), {Pass::weight_gradient, dy, x0, x1, {}, {}, {}, {}});
}

// ---- the others, and a device without memory

void group_norm_forward(Context&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, GroupNorm) {}
void group_norm_backward(Context&, Grad, Grad, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, GroupNorm) {}
void attention_forward(Context&, Tensor, Tensor, Tensor, int) {}
void attention_backward(Context&, Tensor, Tensor, Tensor, Tensor, Tensor, int) {}
void time_embedding_forward(Context&, Tensor, Tensor, bool, int) {}
void class_embedding_forward(Context&, Tensor, Tensor, Tensor, Tensor) {}
void class_embedding_backward(Context&, Tensor, Tensor, Tensor) {}
void silu_forward(Context&, Tensor, Tensor) {}
void silu_backward(Context&, Grad, Tensor, Tensor) {}
void pad_forward(Context&, Tensor, Tensor) {}
void pad_backward(Context&, Grad, Tensor) {}
void add(Context&, Tensor, Tensor) {}

BackwardStage::BackwardStage(Context& context) : context_(context) {}
BackwardStage::~BackwardStage() = default;
void BackwardStage::keep(std::function<void()> used) { kept_ = std::move(used); }
void BackwardStage::finish() {}

extern const bool device_is_host = false;
real* device_allocate(size_t) { return somewhere(); }
void device_release(void*) {}
int kernel_architecture() { return 80; }
TensorMap tensor_map(const void*, const TensorMapShape&) { return {}; }

}  // namespace phx

int main() {
  phx::UNetConfig cifar, small;
  cifar.block_out_channels = {128, 256, 256, 256};
  cifar.attention = {false, true, false, false};
  small.height = small.width = 28;
  small.in_channels = small.out_channels = 1;
  small.block_out_channels = {32, 64, 64};
  small.attention = {false, true, false};
  phx::list("cifar, 32x32x3", cifar, 128);
  std::puts("");
  phx::list("small, 28x28x1", small, 32);
}
