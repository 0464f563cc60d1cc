// The products of kernels/cuda/gemm/wgmma_product.cu and wgmma_halo.cu against plain loops, on whole numbers: sums are exact,
// so bits must be equal.
#include "kernels/cuda/gemm/wgmma_plan.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <stdexcept>

#include "hopper.h"

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
struct Values {
  int n, h, w, c, ld;
  std::vector<uint16_t> values;
  Buffer memory;
  Values(int n, int h, int w, int c, unsigned seed, int ld = 0) : Values(n, h, w, c, draw(size_t(n) * h * w * (ld ? ld : c), seed), ld) {}
  Values(int n, int h, int w, int c, std::vector<uint16_t> values, int ld = 0)
      : n(n), h(h), w(w), c(c), ld(ld ? ld : c), values(std::move(values)), memory(this->values) {}
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
  Tensor view() const { return {reinterpret_cast<float*>(memory.pointer), n, h, w, c, ld, Type::bf16}; }
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
  Tensor view() const { return {reinterpret_cast<float*>(memory.pointer), 1, 1, 1, int(values.size()), int(values.size())}; }
};

// Starts what a plan holds, on three blocks, so that a block takes several tiles.
template <class Plan>
bool start(CUmodule module, const std::string& kernel, const Plan& plan, bool staged, const std::string& what) {
  CUfunction f = function(module, ("wgmma_" + kernel + "_" + std::to_string(plan.columns) + (plan.halo ? "_halo" : "") +
                                   (plan.pairs ? "_pair" : "") + "_kernel")
                                      .c_str());
  const int shared = plan.halo ? wgmma_halo_shared_bytes(plan.columns) : wgmma_shared_bytes(plan.columns, staged);
  succeeded(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared), "shared memory");
  const unsigned cluster = plan.pairs ? 2 : 1, blocks = unsigned(std::min(plan.tiles, plan.pairs ? 4 : 3));
  return succeeded(run_with(in_clusters(cluster), f, blocks, kWgmmaThreads, unsigned(shared), plan.parameters), what);
}
void compare(Values& got, const std::string& what, const std::function<double(int, int, int, int)>& wanted) {
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
  int n, h, w, c, k;  // of x
  Conv2d window;
  bool temb, accumulate;  // the residual too
  int slack = 0;          // ld - channels
  Tiling tiling = {};
  int shortcut = 0;  // channels of its first input; more than 64: it has a second one
  int height() const { return h * window.upsample / window.stride; }
  int width() const { return w * window.upsample / window.stride; }
};
std::string name_of(const char* what, const Case& c) {
  return std::string(what) + " " + std::to_string(c.n) + "x" + std::to_string(c.h) + "x" + std::to_string(c.w) + "x" + std::to_string(c.c) +
         " to " + std::to_string(c.k) + ", stride " + std::to_string(c.window.stride) + ", upsample " + std::to_string(c.window.upsample);
}
// Calls visit(input row, input column, r, s) for all that output pixel (i,j) reads.
template <class Visit>
void each_tap(const Conv2d& a, int h, int w, int i, int j, Visit visit) {
  for (int r = 0; r < 3; ++r)
    for (int s = 0; s < 3; ++s) {
      const int up = i * a.stride + r - a.pad, left = j * a.stride + s - a.pad;
      if (up >= 0 && left >= 0 && up < h * a.upsample && left < w * a.upsample) visit(up / a.upsample, left / a.upsample, r, s);
    }
}

// Which taps of a side are in which of the four sums of folded weights.
const bool kInSum[4][3] = {{true, false, false}, {false, true, true}, {true, true, false}, {false, false, true}};
// Calls visit(p, q) for the sums that tap (r,s) is in.
template <class Visit>
void each_sum(int r, int s, Visit visit) {
  for (int p = 0; p < 4; ++p)
    for (int q = 0; q < 4; ++q)
      if (kInSum[p][r] && kInSum[q][s]) visit(p, q);
}
// What the plan of a convolution is given: the weights, folded for an upsampled one.
Values weights_for(const Values& w, const Conv2d& window) {
  if (window.upsample == 1) return {w.n, 3, 3, w.c, w.values};
  std::vector<double> sums(size_t(w.n) * 16 * w.c);
  for (int k = 0; k < w.n; ++k)
    for (int tap = 0; tap < 9; ++tap)
      each_sum(tap / 3, tap % 3, [&](int p, int q) {
        for (int c = 0; c < w.c; ++c) sums[size_t((k * 16 + p * 4 + q) * w.c + c)] += w.at(k, tap / 3, tap % 3, c);
      });
  std::vector<uint16_t> rounded(sums.size());
  std::transform(sums.begin(), sums.end(), rounded.begin(), to_bf16);
  return {w.n, 4, 4, w.c, rounded};
}

void convolution(CUmodule module, const Case& c) {
  Values x(c.n, c.h, c.w, c.c, 1, c.c + c.slack), w(c.k, 3, 3, c.c, 2), y(c.n, c.height(), c.width(), c.k, 3, c.k + c.slack),
      temb(c.n, 1, 1, c.k, 4, c.k + 2), residual(c.n, y.h, y.w, c.k, 5);
  const int c0 = c.shortcut, c1 = c0 > 64 ? 24 : 0;  // one input, or two
  Values skip0(c.n, y.h, y.w, std::max(c0, 8), 6), skip1(c.n, y.h, y.w, 24, 7), skip_w(c.k, 1, 1, std::max(c0 + c1, 8), 8);
  Floats bias(size_t(c.k)), skip_bias(size_t(c.k));
  Shortcut shortcut;
  if (c0) shortcut = {skip0.view(), c1 ? skip1.view() : Tensor{}, skip_w.view(), skip_bias.view()};
  const Values weights = weights_for(w, c.window);
  const std::string name = name_of("convolution", c);
  const auto plan = plan_conv2d_forward(y.view(), x.view(), c.temb ? temb.view() : Tensor{}, c.accumulate ? residual.view() : Tensor{},
                                        shortcut, weights.view(), bias.view(), c.window, c.tiling);
  if (!start(module, "forward", plan, true, name)) return;
  compare(y, name, [&](int n, int i, int j, int k) {
    double sum = bias.values[size_t(k)] + (c.temb ? temb.at(n, 0, 0, k) : 0) + (c.accumulate ? residual.at(n, i, j, k) : 0);
    each_tap(c.window, c.h, c.w, i, j, [&](int h, int v, int r, int s) {
      for (int ch = 0; ch < c.c; ++ch) sum += x.at(n, h, v, ch) * w.at(k, r, s, ch);
    });
    if (c0) sum += skip_bias.values[size_t(k)];
    for (int ch = 0; ch < c0; ++ch) sum += skip0.at(n, i, j, ch) * skip_w.at(k, 0, 0, ch);
    for (int ch = 0; ch < c1; ++ch) sum += skip1.at(n, i, j, ch) * skip_w.at(k, 0, 0, c0 + ch);
    return sum;
  });
}
void input_gradient(CUmodule module, const Case& c) {
  Values dx(c.n, c.h, c.w, c.c, 1, c.c + c.slack), w(c.k, 3, 3, c.c, 2), dy(c.n, c.height(), c.width(), c.k, 3);
  std::vector<double> wanted(size_t(c.n) * c.h * c.w * c.c);
  auto place = [&](int n, int h, int v, int ch) { return ((size_t(n) * c.h + h) * c.w + v) * c.c + ch; };
  for (int n = 0; n < c.n; ++n) {
    for (int h = 0; h < c.h && c.accumulate; ++h)
      for (int v = 0; v < c.w; ++v)
        for (int ch = 0; ch < c.c; ++ch) wanted[place(n, h, v, ch)] = dx.at(n, h, v, ch);
    for (int i = 0; i < dy.h; ++i)
      for (int j = 0; j < dy.w; ++j)
        each_tap(c.window, c.h, c.w, i, j, [&](int h, int v, int r, int s) {
          for (int k = 0; k < c.k; ++k)
            for (int ch = 0; ch < c.c; ++ch) wanted[place(n, h, v, ch)] += dy.at(n, i, j, k) * w.at(k, r, s, ch);
        });
  }
  const std::string name = name_of("gradient of the input of", c);
  const Values weights = weights_for(w, c.window);
  const auto plan = plan_conv2d_input_gradient({dx.view(), c.accumulate}, dy.view(), weights.view(), c.window, c.tiling);
  if (!start(module, "input_gradient", plan, true, name)) return;
  compare(dx, name, [&](int n, int h, int v, int ch) { return wanted[place(n, h, v, ch)]; });
}
// The sums over the parts of a plan: the weights' gradient (rows, columns), and the biases', which has so many parts a range.
struct Gradient {
  std::vector<double> weights, biases;
};
Gradient weight_gradient_of(CUmodule module, WgmmaPlan<WgmmaWeightGradient> plan, const Values& dy, int columns, int phases,
                            const std::string& what) {
  Gradient sums{std::vector<double>(size_t(dy.c) * columns), std::vector<double>(size_t(dy.c))};
  const size_t ranges = size_t(plan.parameters.ranges);
  Buffer weights(ranges * sums.weights.size() * 4), biases(ranges * size_t(phases) * sums.biases.size() * 4);
  plan.parameters.parts = {reinterpret_cast<float*>(weights.pointer), reinterpret_cast<float*>(biases.pointer)};
  if (!start(module, "weight_gradient", plan, false, what)) return sums;
  auto add_up = [](const Buffer& from, std::vector<double>& to) {
    const std::vector<float> parts = from.read<float>();
    for (size_t i = 0; i < parts.size(); ++i) to[i % to.size()] += parts[i];
  };
  add_up(weights, sums.weights);
  add_up(biases, sums.biases);
  return sums;
}
std::vector<double> sums_of(const Values& dy) {
  std::vector<double> sums(size_t(dy.c));
  for (int n = 0; n < dy.n; ++n)
    for (int i = 0; i < dy.h; ++i)
      for (int j = 0; j < dy.w; ++j)
        for (int k = 0; k < dy.c; ++k) sums[size_t(k)] += dy.at(n, i, j, k);
  return sums;
}
void weight_gradient(CUmodule module, const Case& c) {
  Values x(c.n, c.h, c.w, c.c, 1, c.c + c.slack), dy(c.n, c.height(), c.width(), c.k, 3);
  std::vector<double> wanted(size_t(c.k) * 9 * c.c);
  for (int n = 0; n < c.n; ++n)
    for (int i = 0; i < dy.h; ++i)
      for (int j = 0; j < dy.w; ++j)
        each_tap(c.window, c.h, c.w, i, j, [&](int h, int v, int r, int s) {
          for (int k = 0; k < c.k; ++k)
            for (int ch = 0; ch < c.c; ++ch) wanted[size_t((k * 9 + r * 3 + s) * c.c + ch)] += dy.at(n, i, j, k) * x.at(n, h, v, ch);
        });
  const std::string name = name_of("gradient of the weights of", c);
  const int taps = c.window.upsample == 2 ? 16 : 9;
  const auto plan = plan_conv2d_weight_gradient(dy.view(), x.view(), c.window, c.tiling);
  auto [got, biases] = weight_gradient_of(module, plan, dy, taps * c.c, taps == 16 ? 4 : 1, name);
  if (taps == 16) {
    const std::vector<double> folded = std::move(got);
    got.assign(wanted.size(), 0);
    for (int k = 0; k < c.k; ++k)
      for (int tap = 0; tap < 9; ++tap)
        each_sum(tap / 3, tap % 3, [&](int p, int q) {
          for (int ch = 0; ch < c.c; ++ch) got[size_t((k * 9 + tap) * c.c + ch)] += folded[size_t((k * 16 + p * 4 + q) * c.c + ch)];
        });
  }
  check(got == wanted, name);
  check(biases == sums_of(dy), name + ", and of the biases");
}
// y = [x0 | x1] wᵀ + b + residual and its gradients, on matrices.
void linear(CUmodule module, int rows, int c0, int c1, int k) {
  const int c = c0 + c1;
  const std::string name =
      "linear " + std::to_string(rows) + "x(" + std::to_string(c0) + "+" + std::to_string(c1) + ") to " + std::to_string(k);
  Values x0(rows, 1, 1, c0, 1), x1(rows, 1, 1, std::max(c1, 8), 2), w(k, 1, 1, c, 3), y(rows, 1, 1, k, 4), residual(rows, 1, 1, k, 5),
      dy(rows, 1, 1, k, 6), dx0(rows, 1, 1, c0, 7), dx1(rows, 1, 1, std::max(c1, 8), 8);
  Floats bias{size_t(k)};
  const Tensor second = c1 ? x1.view() : Tensor{};
  auto joined = [&](int row, int ch) { return ch < c0 ? x0.at(row, 0, 0, ch) : x1.at(row, 0, 0, ch - c0); };
  if (!start(module, "forward", plan_linear_forward(y.view(), x0.view(), second, residual.view(), w.view(), bias.view()), true, name))
    return;
  compare(y, name, [&](int row, int, int, int out) {
    double sum = bias.values[size_t(out)] + residual.at(row, 0, 0, out);
    for (int ch = 0; ch < c; ++ch) sum += joined(row, ch) * w.at(out, 0, 0, ch);
    return sum;
  });
  std::vector<double> wanted(size_t(k) * c);
  for (int row = 0; row < rows; ++row)
    for (int out = 0; out < k; ++out)
      for (int ch = 0; ch < c; ++ch) wanted[size_t(out * c + ch)] += dy.at(row, 0, 0, out) * joined(row, ch);
  const auto [weights, biases] = weight_gradient_of(module, plan_linear_weight_gradient(dy.view(), x0.view(), second), dy, c, 1, name);
  check(weights == wanted, name + ", gradient of the weights");
  check(biases == sums_of(dy), name + ", gradient of the biases");
  // dx0 is written, dx1 added to, both at once or each alone.
  auto inputs = [&](const Tensor& to0, const Tensor& to1) {
    const std::vector<uint16_t> before = dx1.values;
    const auto plan = plan_linear_input_gradient({to0}, {to1, true}, dy.view(), w.view(), c0);
    if (!start(module, "input_gradient", plan, true, name)) return;
    auto gradient = [&](int row, int ch) {
      double sum = 0;
      for (int out = 0; out < k; ++out) sum += dy.at(row, 0, 0, out) * w.at(out, 0, 0, ch);
      return sum;
    };
    if (to0) compare(dx0, name + ", gradient of the first input", [&](int row, int, int, int ch) { return gradient(row, ch); });
    if (to1)
      compare(dx1, name + ", gradient of the second input",
              [&](int row, int, int, int ch) { return from_bf16(before[size_t(row * c1 + ch)]) + gradient(row, c0 + ch); });
  };
  inputs(dx0.view(), {});
  if (!c1) return;
  inputs(dx0.view(), dx1.view());
  inputs({}, dx1.view());
}

const Conv2d plain{}, strided{2, 0, 1}, strided_padded{2, 1, 1}, enlarged{1, 1, 2};

}  // namespace

void test_wgmma_products(CUmodule module) {
  const Case cases[] = {
      {2, 8, 8, 64, 64, plain, true, true},
      {3, 4, 4, 24, 40, plain, true, false, 8},
      {1, 16, 16, 72, 136, plain, false, true},
      {1, 2, 128, 16, 8, plain, false, false},
      {2, 16, 8, 40, 16, strided, true, true},
      {1, 32, 32, 8, 72, strided_padded, false, false},
      {33, 2, 2, 16, 16, plain, true, false},
      {2, 8, 8, 136, 16, plain, true, true, 0, {128, 0}},
      {1, 8, 8, 8, 264, plain, true, true, 0, {256, 0}},
      {2, 8, 8, 16, 24, enlarged, true, true},
      {1, 4, 4, 24, 8, enlarged, false, false},
      {1, 8, 8, 8, 136, enlarged, false, true, 0, {128, 1}},
      {5, 8, 8, 16, 136, plain, true, true, 0, {128, 1}},
      {3, 8, 8, 8, 264, plain, false, true, 0, {256, 1}},
      {2, 8, 8, 16, 40, plain, true, false, 0, {}, 24},
      {3, 8, 8, 8, 136, plain, false, true, 0, {128, 1}, 72},
  };
  for (Case c : cases) {
    c.tiling.halo = false;
    convolution(module, c);
    input_gradient(module, c);
    c.tiling = {};
    weight_gradient(module, c);
  }
  // Each width alone, in pairs of rows, and in pairs of columns, some of which are filled in part.
  const Case gradients[] = {
      {1, 8, 8, 72, 136, plain, false, false, 0, {64, 0}},    {1, 8, 8, 40, 72, plain, false, false, 0, {128, 0}},
      {3, 8, 8, 72, 16, plain, false, false, 0, {192, 0}},    {2, 16, 16, 40, 24, plain, false, false, 8, {256, 0}},
      {2, 8, 8, 24, 136, plain, false, false, 0, {128, 1}},   {1, 8, 8, 72, 136, plain, false, false, 0, {192, 1}},
      {3, 8, 8, 40, 264, plain, false, false, 0, {256, 1}},   {1, 8, 8, 72, 16, enlarged, false, false, 0, {128, 1}},
      {3, 8, 8, 128, 72, plain, false, false, 0, {192, 1}},   {1, 8, 8, 40, 40, enlarged, false, false, 0, {192, 1}},
      {2, 8, 8, 72, 24, enlarged, false, false, 0, {256, 1}}, {2, 16, 8, 104, 24, strided, false, false, 0, {192, 1}},
  };
  for (const Case& c : gradients) weight_gradient(module, c);
  linear(module, 200, 72, 24, 80);
  linear(module, 128, 64, 0, 64);
}

// Maps of one patch to an image (odd batches too), of two beside each other, of more in both directions, of one above the other.
void test_wgmma_halo(CUmodule module) {
  const Case cases[] = {
      {3, 8, 8, 72, 40, plain, true, true, 8},
      {1, 16, 16, 136, 72, plain, true, false},
      {2, 8, 48, 24, 16, plain, false, true},
      {1, 16, 8, 64, 64, plain, true, true},
      {5, 8, 8, 16, 136, plain, true, true, 0, {128, 0}},
      {1, 8, 16, 72, 264, plain, false, false, 0, {256, 0}},
      {5, 8, 8, 16, 136, plain, true, true, 0, {128, 1}},
      {1, 24, 16, 8, 264, plain, true, true, 0, {256, 1}},
      {2, 8, 8, 16, 40, plain, true, false, 0, {}, 24},
      {3, 8, 8, 72, 136, plain, false, true, 0, {128, 1}, 72},
  };
  for (const Case& c : cases) {
    convolution(module, c);
    input_gradient(module, c);
  }
}
