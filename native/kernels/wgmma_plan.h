// How products on Hopper's tensor cores are cut into tiles, and their tensor maps. Everything follows from the shapes alone, never from the card or
// from a measurement, so that equal seeds give equal bits. Which products run there: dispatch.cuda.cpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <vector>

#include "conv2d.cuh"
#include "ops.h"
#include "wgmma_product.cuh"

namespace phx {

constexpr int kPlannedMultiprocessors = 132;  // of an H100 SXM or H200; only the cut into tiles depends on it
constexpr int kMostCopied = 256;              // of a side of the box of pixels that a copy takes or steps over

// A matrix as an image of one line.
inline Tensor as_line(const Tensor& t) { return t ? Tensor{t.data, 1, 1, int(t.rows()), t.c, t.ld, t.type} : Tensor{}; }

template <class T, size_t Size, class... Values>
void set(T (&to)[Size], Values... values) {
  T given[] = {T(values)...};
  std::copy(std::begin(given), std::end(given), to);
}

// Tiles of `pixels` pixels that are boxes of (N,H,W); none if rows of the image do not fit into one evenly. A tile may hang over at the end of a
// row of more than `pixels`, and over the last image.
inline std::optional<PixelTiles> cover_pixels(int n, int h, int w, int pixels) {
  auto up = [](int a, int b) { return (a + b - 1) / b; };
  if (w >= pixels) return PixelTiles{{1, 1, pixels}, up(w, pixels), h, up(w, pixels) * h * n};
  if (pixels % w) return {};
  int rows = pixels / w;
  if (h >= rows) return h % rows ? std::nullopt : std::optional(PixelTiles{{1, rows, w}, 1, h / rows, h / rows * n});
  if (rows % h) return {};
  return PixelTiles{{rows / h, h, w}, 1, 1, up(n, rows / h)};
}

inline TensorMap map_of_pixels(const Tensor& t, PixelBox box, int stride) {
  uint64_t pixel = uint64_t(t.ld) * 2;
  TensorMapShape s;
  s.rank = 4;
  set(s.sizes, t.c, t.w, t.h, t.n);
  set(s.distances, pixel, pixel * t.w, pixel * t.w * t.h);
  set(s.box, kWgmmaDepth, box.w * stride, box.h * stride, box.n);  // with the pixels that are stepped over
  set(s.steps, 1, stride, stride, 1);
  s.swizzle = 128;
  return tensor_map(t.data, s);
}
// Weights (K, taps, C); a copy takes 64 c of `count` k.
inline TensorMap map_of_weights(const Tensor& w, int count) {
  TensorMapShape s;
  s.rank = 3;
  set(s.sizes, w.c, w.h * w.w, w.n);
  set(s.distances, uint64_t(w.ld) * 2, uint64_t(w.ld) * w.h * w.w * 2);
  set(s.box, kWgmmaDepth, 1, count);
  s.swizzle = 128;
  return tensor_map(w.data, s);
}
// Half a tile of results, 64 channels of it: (N·H/phases, phases, W/phases, phases, C).
inline TensorMap map_of_results(const Tensor& t, PixelBox box, int phases) {
  uint64_t pixel = uint64_t(t.ld) * 2;
  int w = std::min(box.w, kWgmmaRows / 2);
  TensorMapShape s;
  s.rank = 5;
  set(s.sizes, t.c, phases, t.w / phases, phases, uint64_t(t.n) * t.h / phases);
  set(s.distances, pixel, pixel * phases, pixel * t.w, pixel * t.w * phases);
  set(s.box, 64, 1, w, 1, kWgmmaRows / 2 / w);
  s.swizzle = 128;
  return tensor_map(t.data, s);
}

// Columns of a tile, 64, 128 or 256: the fewest waves of tiles, each at its price. A wide tile reads less for the same sums.
inline int wgmma_columns(int pixel_tiles, int columns) {
  struct Price {
    int columns;
    double tile;
  };
  constexpr Price prices[] = {{256, 1.8}, {128, 1.0}, {64, 0.6}};
  int best = 64;
  double least = 1e30;
  for (Price p : prices) {
    if (p.columns >= 2 * columns && p.columns > 64) continue;
    int tiles = pixel_tiles * ((columns + p.columns - 1) / p.columns);
    double price = (tiles + kPlannedMultiprocessors - 1) / kPlannedMultiprocessors * p.tile;
    if (price < least) {
      least = price;
      best = p.columns;
    }
  }
  return best;
}

// A launch: the parameters and the width of a tile, which names the kernel.
template <class Parameters>
struct WgmmaPlan {
  Parameters parameters;
  int columns, tiles;
  bool pairs = false;  // blocks work two by two and share the weights
};
// How to cut, where it is not left to the table.
struct Tiling {
  int columns = 0;  // 64, 128, 256
  int pairs = -1;   // 0, 1
};

// out = in0|in1 · weights (taps as given) + bias + temb + residual. In the inputs' gradient in0 is dy and out is dx.
struct WgmmaForwardArguments {
  Tensor out, in0, in1, residual;
  Tensor weights;  // (K,3,3,C), folded (K,4,4,C), or (K,1,1,C): a row of `ld` values for each tap of a k
  bool input_gradient = false;
  const float* bias = nullptr;
  Tensor temb;
  int stride = 1, phases = 1, phase_h = 0, phase_w = 0;  // out's pixels are every `phases`-th
  Tiling tiling;
  int taps = 0;
  Tap tap[kMostTaps] = {};
};
inline WgmmaPlan<WgmmaForward> plan_wgmma(const WgmmaForwardArguments& a) {
  const Tensor& out = a.out;
  const PixelTiles pixels = cover_pixels(out.n, out.h / a.phases, out.w / a.phases, kWgmmaRows).value();
  WgmmaPlan<WgmmaForward> plan{};
  WgmmaForward& f = plan.parameters;
  plan.columns = a.tiling.columns ? a.tiling.columns : wgmma_columns(pixels.count, out.c);
  // In pairs where that leaves enough for all multiprocessors.
  int column_tiles = (out.c + plan.columns - 1) / plan.columns;
  bool many = pixels.count * column_tiles >= kPlannedMultiprocessors;
  plan.pairs = plan.columns > 64 && (a.tiling.pairs < 0 ? many : a.tiling.pairs == 1);
  f.in0 = map_of_pixels(a.in0, pixels.box, a.stride);
  f.in1 = a.in1 ? map_of_pixels(a.in1, pixels.box, a.stride) : f.in0;
  f.weights = map_of_weights(a.weights, a.input_gradient ? 64 : plan.pairs ? plan.columns / 2 : plan.columns);
  f.out = map_of_results(out, pixels.box, a.phases);
  f.residual = a.residual ? map_of_results(a.residual, pixels.box, a.phases) : f.out;
  f.has_residual = bool(a.residual);
  f.bias = a.bias;
  f.temb = reinterpret_cast<const __nv_bfloat16*>(a.temb.data);
  f.temb_ld = a.temb.ld;
  f.pixels = pixels;
  f.columns = out.c;
  f.column_tiles = column_tiles;
  f.rows_per_image = out.h / a.phases;
  f.images = out.n;
  f.phase_h = a.phase_h;
  f.phase_w = a.phase_w;
  f.steps0 = (a.in0.c + kWgmmaDepth - 1) / kWgmmaDepth;
  f.steps1 = (a.in1.c + kWgmmaDepth - 1) / kWgmmaDepth;
  f.channels0 = a.in0.c;
  f.stride = a.stride;
  f.taps = a.taps;
  std::copy(a.tap, a.tap + kMostTaps, f.tap);
  plan.tiles = (plan.pairs ? (pixels.count + 1) / 2 * 2 : pixels.count) * column_tiles;
  return plan;
}

inline Tap tap_at(int h, int w, int index) {
  return {static_cast<signed char>(h), static_cast<signed char>(w), static_cast<unsigned char>(index)};
}
// Output pixel i reads input i·stride + r - pad. Enlarged twice, outputs 2u + phase read inputs u + phase - 1 and u + phase, through folded weights.
inline void set_forward_taps(WgmmaForwardArguments& a, Conv2d x) {
  a.stride = x.stride;
  a.phases = x.upsample;
  int side = x.upsample == 2 ? 2 : 3;
  for (int r = 0; r < side; r++)
    for (int s = 0; s < side; s++) {
      int p = 2 * a.phase_h + r, q = 2 * a.phase_w + s;  // the folded sums
      a.tap[a.taps++] =
          x.upsample == 2 ? tap_at(folded_pixel(p), folded_pixel(q), kFolded * p + q) : tap_at(r - x.pad, s - x.pad, 3 * r + s);
    }
}
// Input u·stride + phase is read by outputs u + (phase + pad - r)/stride, where that is whole. Enlarged twice, u is read by outputs 2u - 1 … 2u + 2.
inline void set_input_gradient_taps(WgmmaForwardArguments& a, Conv2d x) {
  a.input_gradient = true;
  a.stride = x.upsample;
  a.phases = x.stride;
  int side = x.upsample == 2 ? kFolded : 3;
  for (int r = 0; r < side; r++)
    for (int s = 0; s < side; s++) {
      int h = a.phase_h + x.pad - r, w = a.phase_w + x.pad - s;
      if (x.upsample == 2)
        a.tap[a.taps++] = tap_at(r - 1, s - 1, kFolded * folded_reader(r) + folded_reader(s));
      else if (h % x.stride == 0 && w % x.stride == 0)
        a.tap[a.taps++] = tap_at(h / x.stride, w / x.stride, 3 * r + s);
    }
}

// partial (ranges, K, row_length) of dw; x's channels stand at first_column of each tap, tap_stride from tap to tap.
struct WgmmaWeightGradientArguments {
  Tensor dy, x;
  int row_length = 0, first_column = 0, tap_stride = 0;
  int taps = 1;  // 9 of `window`, 16 of folded weights
  Conv2d window;
  int steps_per_range = 0;  // 0: by the table
};
inline WgmmaPlan<WgmmaWeightGradient> plan_wgmma(const WgmmaWeightGradientArguments& a) {
  int up = a.window.upsample;
  const PixelTiles pixels = cover_pixels(a.dy.n, a.dy.h / up, a.dy.w / up, kWgmmaDepth).value();
  WgmmaPlan<WgmmaWeightGradient> plan{};
  WgmmaWeightGradient& g = plan.parameters;
  g.pixels = pixels;
  g.rows = a.dy.c;
  g.row_tiles = (a.dy.c + kWgmmaRows - 1) / kWgmmaRows;
  g.columns = a.x.c;
  plan.columns = a.x.c > 128 ? 256 : a.x.c > 64 ? 128 : 64;
  g.column_tiles = (a.x.c + plan.columns - 1) / plan.columns;
  g.dy = map_of_pixels(a.dy, pixels.box, up);
  g.x = map_of_pixels(a.x, pixels.box, a.window.stride);
  // Ranges of pixels: the fewest steps in a row, a tile's end counted as 12 and each range's sums as a quarter.
  int tiles = g.row_tiles * a.taps * g.column_tiles, steps = pixels.count;
  double least = 1e30;
  for (int ranges = 1; ranges <= std::min(steps, 64); ranges++) {
    int per_range = (steps + ranges - 1) / ranges;
    double price = double((tiles * ranges + kPlannedMultiprocessors - 1) / kPlannedMultiprocessors) * (per_range + 12) + 0.25 * ranges;
    if (price >= least) continue;
    least = price;
    g.steps_per_range = per_range;
  }
  if (a.steps_per_range) g.steps_per_range = a.steps_per_range;
  g.steps = steps;
  g.ranges = (steps + g.steps_per_range - 1) / g.steps_per_range;
  g.row_length = a.row_length;
  g.first_column = a.first_column;
  g.tap_stride = a.tap_stride;
  g.stride = a.window.stride;
  g.upsample = up;
  g.taps = a.taps;
  for (int t = 0; t < a.taps; t++)
    g.tap[t] = a.taps == 1 ? Tap{}
               : up == 2   ? tap_at(folded_pixel(t / kFolded), folded_pixel(t % kFolded), t)
                           : tap_at(t / 3 - a.window.pad, t % 3 - a.window.pad, t);
  plan.tiles = tiles * g.ranges;
  return plan;
}

// ---- the ops' plans: what to launch, in this order

using WgmmaForwards = std::vector<WgmmaPlan<WgmmaForward>>;
using WgmmaWeightGradients = std::vector<WgmmaPlan<WgmmaWeightGradient>>;  // `partial` is still to be set; all have the same ranges

// One launch for each phase of the results.
template <class SetTaps>
WgmmaForwards plan_phases(WgmmaForwardArguments a, int phases, SetTaps set_taps) {
  WgmmaForwards plans;
  for (a.phase_h = 0; a.phase_h < phases; a.phase_h++)
    for (a.phase_w = 0; a.phase_w < phases; a.phase_w++) {
      a.taps = 0;
      set_taps(a);
      plans.push_back(plan_wgmma(a));
    }
  return plans;
}
inline WgmmaForwards plan_conv2d_forward(Tensor y, Tensor x, Tensor temb, Tensor residual, Tensor w, Tensor b, Conv2d window,
                                         Tiling tiling = {}) {
  WgmmaForwardArguments a;
  a.out = y, a.in0 = x, a.residual = residual, a.weights = w, a.bias = b.data, a.temb = temb, a.tiling = tiling;
  return plan_phases(a, window.upsample, [&](auto& a) { set_forward_taps(a, window); });
}
inline WgmmaForwards plan_conv2d_input_gradient(Grad dx, Tensor dy, Tensor w, Conv2d window, Tiling tiling = {}) {
  WgmmaForwardArguments a;
  a.out = dx.t, a.in0 = dy, a.residual = dx.accumulate ? dx.t : Tensor{}, a.weights = w, a.tiling = tiling;
  return plan_phases(a, window.stride, [&](auto& a) { set_input_gradient_taps(a, window); });
}
inline WgmmaWeightGradients plan_conv2d_weight_gradient(Tensor dy, Tensor x, Conv2d window) {
  WgmmaWeightGradientArguments a;
  a.dy = dy, a.x = x, a.taps = window.upsample == 2 ? kFolded * kFolded : 9, a.row_length = a.taps * x.c, a.tap_stride = x.c,
  a.window = window;
  return {plan_wgmma(a)};
}
inline WgmmaForwards plan_linear_forward(Tensor y, Tensor x0, Tensor x1, Tensor residual, Tensor w, Tensor b) {
  WgmmaForwardArguments a;
  a.out = as_line(y), a.in0 = as_line(x0), a.in1 = as_line(x1), a.residual = as_line(residual), a.weights = w, a.bias = b.data;
  return plan_phases(a, 1, [](auto& a) { a.taps = 1; });
}
// w0: the columns of the weights that belong to this input.
inline WgmmaForwards plan_linear_input_gradient(Grad dx, Tensor dy, Tensor w0) {
  WgmmaForwardArguments a;
  a.out = as_line(dx.t), a.in0 = as_line(dy), a.residual = dx.accumulate ? as_line(dx.t) : Tensor{}, a.weights = w0;
  a.input_gradient = true;
  return plan_phases(a, 1, [](auto& a) { a.taps = 1; });
}
inline WgmmaWeightGradients plan_linear_weight_gradient(Tensor dy, Tensor x0, Tensor x1) {
  WgmmaWeightGradients plans;
  WgmmaWeightGradientArguments a;
  a.dy = as_line(dy), a.row_length = x0.c + x1.c;
  for (const Tensor& x : {x0, x1}) {
    if (!x) continue;
    a.x = as_line(x);
    plans.push_back(plan_wgmma(a));
    a.first_column += x.c;
    a.steps_per_range = plans.back().parameters.steps_per_range;
  }
  return plans;
}

}  // namespace phx
