// The products of native/kernels/wgmma_product.cu against plain loops, on whole numbers: sums are exact, so bits must be equal.
#include "../../kernels/wgmma_plan.h"

#include <cstring>
#include <functional>
#include <stdexcept>

#include "test.h"

using namespace phx;

TensorMap phx::tensor_map(const void* base, const TensorMapShape& s) {
  CUtensorMap map{};
  const std::vector<cuuint64_t> sizes(s.sizes, s.sizes + 5), distances(s.distances, s.distances + 4);
  const CUresult r = cuTensorMapEncodeTiled(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, cuuint32_t(s.rank), const_cast<void*>(base), sizes.data(), distances.data(), s.box, s.steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (!succeeded(r, "tensor map")) throw std::runtime_error("no tensor map");
  TensorMap out;
  memcpy(&out, &map, sizeof out);
  return out;
}

namespace {

uint16_t to_bf16(double value) {  // to nearest, ties to even
  const float f = float(value);
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
double from_bf16(uint16_t value) {
  const uint32_t bits = uint32_t(value) << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

// bf16 values on the host and the device; those between c and ld are left alone.
struct Tensor {
  int n, h, w, c, ld;
  std::vector<uint16_t> values;
  Buffer memory;
  Tensor(int n, int h, int w, int c, unsigned seed, int ld = 0)
      : n(n), h(h), w(w), c(c), ld(ld ? ld : c), values(draw(size_t(n) * h * w * this->ld, seed)), memory(values) {}
  static std::vector<uint16_t> draw(size_t count, unsigned seed) {
    std::vector<uint16_t> v(count);
    uint32_t word = seed * 2654435761u + 12345;
    for (uint16_t& x : v) {
      word = word * 1664525 + 1013904223;
      x = to_bf16(int(word >> 24) % 7 - 3);
    }
    return v;
  }
  double at(int in, int ih, int iw, int ic) const {
    if (ih < 0 || iw < 0 || ih >= h || iw >= w) return 0;
    return from_bf16(values[((size_t(in) * h + ih) * w + iw) * ld + ic]);
  }
  Bf16 view() const { return {reinterpret_cast<void*>(memory.pointer), n, h, w, c, ld}; }
  void read() { values = memory.read<uint16_t>(); }
};
struct Floats {
  std::vector<float> values;
  Buffer memory;
  explicit Floats(size_t count) : values(make(count)), memory(values) {}
  static std::vector<float> make(size_t count) {
    std::vector<float> v(count);
    for (size_t i = 0; i < count; ++i) v[i] = float(int(i * 7 % 11) - 5);
    return v;
  }
};

template <class Parameters>
CUresult start(CUmodule module, const char* name, const WgmmaPlan<Parameters>& plan, bool staged) {
  CUfunction f = function(module, ("wgmma_" + std::string(name) + "_" + std::to_string(plan.columns) + "_kernel").c_str());
  const int shared = wgmma_shared_bytes(plan.columns, staged);
  succeeded(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared), "shared memory");
  return run(f, unsigned(std::min(plan.tiles, 3)), kWgmmaThreads, unsigned(shared), nullptr, plan.parameters);
}
void compare(Tensor& got, const std::string& what, const std::function<double(int, int, int, int)>& wanted) {
  const std::vector<uint16_t> before = got.values;
  got.read();
  size_t wrong = 0;
  std::string first;
  for (int n = 0; n < got.n; ++n)
    for (int h = 0; h < got.h; ++h)
      for (int w = 0; w < got.w; ++w)
        for (int c = 0; c < got.ld; ++c) {
          const size_t at = ((size_t(n) * got.h + h) * got.w + w) * got.ld + c;
          const uint16_t right = c < got.c ? to_bf16(wanted(n, h, w, c)) : before[at];
          if (got.values[at] == right || wrong++) continue;
          first = " first at " + std::to_string(n) + "," + std::to_string(h) + "," + std::to_string(w) + "," + std::to_string(c) + ": " +
                  std::to_string(from_bf16(got.values[at])) + " for " + std::to_string(from_bf16(right));
        }
  check(!wrong, what + ": " + std::to_string(wrong) + " wrong," + first);
}

struct Case {
  int n, h, w, c, k, stride, pad;
  bool temb, residual;
  int slack;        // ld - channels
  int columns = 0;  // of a tile; 0: by the table
};
std::string name_of(const char* what, const Case& c) {
  return std::string(what) + " " + std::to_string(c.n) + "x" + std::to_string(c.h) + "x" + std::to_string(c.w) + "x" + std::to_string(c.c) +
         " to " + std::to_string(c.k) + " stride " + std::to_string(c.stride);
}

WgmmaForwardArguments arguments(const Tensor& out, const Tensor& in, void* weights, int taps, int row) {
  WgmmaForwardArguments a;
  a.out = out.view();
  a.in0 = in.view();
  a.weights = weights;
  a.weight_taps = taps;
  a.weight_row = row;
  return a;
}
void convolution(CUmodule module, const Case& c) {
  Tensor x(c.n, c.h, c.w, c.c, 1, c.c + c.slack), w(c.k, 3, 3, c.c, 2), y(c.n, c.h / c.stride, c.w / c.stride, c.k, 3, c.k + c.slack),
      temb(c.n, 1, 1, c.k, 4, c.k + 2), residual(c.n, y.h, y.w, c.k, 5);
  Floats bias(size_t(c.k));
  WgmmaForwardArguments a = arguments(y, x, w.view().data, 9, 9 * c.c);
  if (c.residual) a.residual = residual.view();
  a.bias = reinterpret_cast<const float*>(bias.memory.pointer);
  if (c.temb) a.temb = static_cast<const __nv_bfloat16*>(temb.view().data);
  a.temb_ld = temb.ld;
  a.stride = c.stride;
  a.columns = c.columns;
  forward_taps(a, c.pad);
  auto plan = plan_wgmma(a);
  const std::string name = name_of("convolution", c);
  check(bool(plan), name + " is taken");
  if (!plan || !succeeded(start(module, "forward", *plan, true), name)) return;
  compare(y, name, [&](int n, int i, int j, int k) {
    double sum = bias.values[size_t(k)] + (c.temb ? temb.at(n, 0, 0, k) : 0) + (c.residual ? residual.at(n, i, j, k) : 0);
    for (int r = 0; r < 3; ++r)
      for (int s = 0; s < 3; ++s)
        for (int ch = 0; ch < c.c; ++ch) sum += x.at(n, i * c.stride + r - c.pad, j * c.stride + s - c.pad, ch) * w.at(k, r, s, ch);
    return sum;
  });
}
void input_gradient(CUmodule module, const Case& c) {
  Tensor dx(c.n, c.h, c.w, c.c, 1, c.c + c.slack), w(c.k, 3, 3, c.c, 2), dy(c.n, c.h / c.stride, c.w / c.stride, c.k, 3);
  const Tensor before(c.n, c.h, c.w, c.c, 1, c.c + c.slack);
  const std::string name = name_of("gradient of the input of", c);
  for (int phase = 0; phase < c.stride * c.stride; ++phase) {
    WgmmaForwardArguments a = arguments(dx, dy, w.view().data, 9, 9 * c.c);
    a.input_gradient = true;
    a.columns = c.columns;
    if (c.residual) a.residual = dx.view();  // accumulates
    a.phases = c.stride;
    a.phase_h = phase / c.stride;
    a.phase_w = phase % c.stride;
    input_gradient_taps(a, c.pad, c.stride);
    auto plan = plan_wgmma(a);
    check(bool(plan), name + " is taken");
    if (!plan || !succeeded(start(module, "input_gradient", *plan, true), name)) return;
  }
  compare(dx, name, [&](int n, int h, int v, int ch) {
    double sum = c.residual ? before.at(n, h, v, ch) : 0;
    for (int r = 0; r < 3; ++r)
      for (int s = 0; s < 3; ++s) {
        const int i = h + c.pad - r, j = v + c.pad - s;
        if (i < 0 || j < 0 || i % c.stride || j % c.stride) continue;
        for (int k = 0; k < c.k; ++k) sum += dy.at(n, i / c.stride, j / c.stride, k) * w.at(k, r, s, ch);
      }
    return sum;
  });
}
void weight_gradient(CUmodule module, const Case& c) {
  Tensor x(c.n, c.h, c.w, c.c, 1, c.c + c.slack), dy(c.n, c.h / c.stride, c.w / c.stride, c.k, 3);
  WgmmaWeightGradientArguments a;
  a.dy = dy.view();
  a.x = x.view();
  a.row_length = 9 * c.c;
  a.tap_stride = c.c;
  a.stride = c.stride;
  a.taps = 9;
  a.pad = c.pad;
  auto plan = plan_wgmma(a);
  const std::string name = name_of("gradient of the weights of", c);
  check(bool(plan), name + " is taken");
  if (!plan) return;
  const size_t size = size_t(c.k) * 9 * c.c;
  Buffer partial(size * size_t(plan->parameters.ranges) * 4);
  plan->parameters.partial = reinterpret_cast<float*>(partial.pointer);
  if (!succeeded(start(module, "weight_gradient", *plan, false), name)) return;
  const std::vector<float> parts = partial.read<float>();
  size_t wrong = 0;
  for (int k = 0; k < c.k; ++k)
    for (int t = 0; t < 9; ++t)
      for (int ch = 0; ch < c.c; ++ch) {
        double wanted = 0, got = 0;
        for (int n = 0; n < c.n; ++n)
          for (int i = 0; i < dy.h; ++i)
            for (int j = 0; j < dy.w; ++j)
              wanted += dy.at(n, i, j, k) * x.at(n, i * c.stride + t / 3 - c.pad, j * c.stride + t % 3 - c.pad, ch);
        for (int range = 0; range < plan->parameters.ranges; ++range)
          got += parts[size_t(range) * size + (size_t(k) * 9 + size_t(t)) * size_t(c.c) + size_t(ch)];
        wrong += got != wanted;
      }
  check(!wrong, name + ": " + std::to_string(wrong) + " wrong, in " + std::to_string(plan->parameters.ranges) + " ranges");
}
// y = [x0 | x1] w + b + residual and its gradients, on matrices.
void linear(CUmodule module, int rows, int c0, int c1, int k) {
  const std::string name =
      "linear " + std::to_string(rows) + "x(" + std::to_string(c0) + "+" + std::to_string(c1) + ") to " + std::to_string(k);
  const int c = c0 + c1;
  Tensor x0(1, 1, rows, c0, 1), x1(1, 1, rows, std::max(c1, 8), 2), w(k, 1, 1, c, 3), y(1, 1, rows, k, 4), residual(1, 1, rows, k, 5),
      dy(1, 1, rows, k, 6), dx1(1, 1, rows, std::max(c1, 8), 7);
  Floats bias{size_t(k)};
  WgmmaForwardArguments a = arguments(y, x0, w.view().data, 1, c);
  a.residual = residual.view();
  if (c1) a.in1 = x1.view();
  a.bias = reinterpret_cast<const float*>(bias.memory.pointer);
  a.taps = 1;
  auto plan = plan_wgmma(a);
  check(bool(plan), name + " is taken");
  if (!plan || !succeeded(start(module, "forward", *plan, true), name)) return;
  auto joined = [&](int row, int ch) { return ch < c0 ? x0.at(0, 0, row, ch) : x1.at(0, 0, row, ch - c0); };
  compare(y, name, [&](int, int, int row, int out) {
    double sum = bias.values[size_t(out)] + residual.at(0, 0, row, out);
    for (int ch = 0; ch < c; ++ch) sum += joined(row, ch) * w.at(out, 0, 0, ch);
    return sum;
  });
  if (!c1) return;
  WgmmaForwardArguments b = arguments(dx1, dy, static_cast<uint16_t*>(w.view().data) + c0, 1, c);
  b.input_gradient = true;
  b.taps = 1;
  plan = plan_wgmma(b);
  check(bool(plan), name + ": gradient is taken");
  if (!plan || !succeeded(start(module, "input_gradient", *plan, true), name)) return;
  compare(dx1, name + ", gradient of the second input", [&](int, int, int row, int ch) {
    double sum = 0;
    for (int out = 0; out < k; ++out) sum += dy.at(0, 0, row, out) * w.at(out, 0, 0, c0 + ch);
    return sum;
  });
}

}  // namespace

void test_wgmma_products(CUmodule module) {
  const Case cases[] = {
      {2, 8, 8, 64, 64, 1, 1, true, true, 0},    {3, 4, 4, 24, 40, 1, 1, true, false, 8},      {1, 16, 16, 72, 136, 1, 1, false, true, 0},
      {1, 2, 128, 16, 8, 1, 1, false, false, 0}, {2, 16, 8, 40, 16, 2, 0, true, true, 0},      {1, 32, 32, 8, 72, 2, 1, false, false, 0},
      {33, 2, 2, 16, 16, 1, 1, true, false, 0},  {2, 8, 8, 136, 16, 1, 1, true, true, 0, 128}, {1, 8, 8, 8, 264, 1, 1, true, true, 0, 256},
  };
  for (const Case& c : cases) {
    convolution(module, c);
    input_gradient(module, c);
    weight_gradient(module, c);
  }
  linear(module, 200, 72, 24, 80);
  linear(module, 128, 64, 0, 64);
}
