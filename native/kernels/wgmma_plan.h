// Which products run on Hopper's tensor cores, how they are cut into tiles, and their tensor maps. Everything follows from the shapes alone, never
// from the card or from a measurement, so that equal seeds give equal bits.
#pragma once
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>

#include "wgmma_product.cuh"

namespace phx {

// bf16 values (N,H,W,C) in device memory, `ld` values from pixel to pixel. A matrix (rows, columns) is (1,1,rows,columns).
struct Bf16 {
  void* data = nullptr;
  int n = 1, h = 1, w = 1, c = 0, ld = 0;
  explicit operator bool() const { return data != nullptr; }
};

constexpr int kPlannedMultiprocessors = 132;  // of an H100 SXM or H200; only the cut into tiles depends on it

// What tensor copies can address: 16-byte aligned rows.
inline bool wgmma_addressable(const Bf16& t) { return t.c % 8 == 0 && t.ld % 8 == 0 && uintptr_t(t.data) % 16 == 0; }

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

inline TensorMap map_of_pixels(const Bf16& t, PixelBox box, int stride) {
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
// Weights (K, taps, C) with `row` values from one k to the next; a copy takes 64 c of `count` k.
inline TensorMap map_of_weights(const void* data, int k, int taps, int c, int row, int count) {
  TensorMapShape s;
  s.rank = 3;
  set(s.sizes, c, taps, k);
  set(s.distances, uint64_t(row / taps) * 2, uint64_t(row) * 2);
  set(s.box, kWgmmaDepth, 1, count);
  s.swizzle = 128;
  return tensor_map(data, s);
}
// Half a tile of results, 64 channels of it: (N·H/phases, phases, W/phases, phases, C).
inline TensorMap map_of_results(const Bf16& t, PixelBox box, int phases) {
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
};

// out = in0|in1 · weights (taps as given) + bias + temb + residual. In the inputs' gradient in0 is dy, out is dx, and weights are (in0's channels, taps, out's).
struct WgmmaForwardArguments {
  Bf16 out, in0, in1, residual;
  void* weights = nullptr;
  int weight_taps = 1, weight_row = 0;  // taps in a row of the weights, values in it
  bool input_gradient = false;
  const float* bias = nullptr;
  const __nv_bfloat16* temb = nullptr;
  int temb_ld = 0;
  int stride = 1, phases = 1, phase_h = 0, phase_w = 0;  // out's pixels are every `phases`-th
  int columns = 0;                                       // of a tile; 0: by the table
  int taps = 0;
  Tap tap[9] = {};
};
inline std::optional<WgmmaPlan<WgmmaForward>> plan_wgmma(const WgmmaForwardArguments& a) {
  const Bf16& out = a.out;
  for (const Bf16* t : {&a.out, &a.in0, &a.in1, &a.residual})
    if (*t && !wgmma_addressable(*t)) return {};
  if (uintptr_t(a.weights) % 16 || a.weight_row / a.weight_taps % 8 || a.temb_ld % 2) return {};
  auto pixels = cover_pixels(out.n, out.h / a.phases, out.w / a.phases, kWgmmaRows);
  if (!pixels || pixels->box.w * a.stride > 256 || pixels->box.h * a.stride > 256) return {};
  WgmmaPlan<WgmmaForward> plan{};
  WgmmaForward& f = plan.parameters;
  plan.columns = a.columns ? a.columns : wgmma_columns(pixels->count, out.c);
  f.in0 = map_of_pixels(a.in0, pixels->box, a.stride);
  f.in1 = a.in1 ? map_of_pixels(a.in1, pixels->box, a.stride) : f.in0;
  int inputs = a.in0.c + a.in1.c;
  f.weights = a.input_gradient ? map_of_weights(a.weights, inputs, a.weight_taps, out.c, a.weight_row, 64)
                               : map_of_weights(a.weights, out.c, a.weight_taps, inputs, a.weight_row, plan.columns);
  f.out = map_of_results(out, pixels->box, a.phases);
  f.residual = a.residual ? map_of_results(a.residual, pixels->box, a.phases) : f.out;
  f.has_residual = bool(a.residual);
  f.bias = a.bias;
  f.temb = a.temb;
  f.temb_ld = a.temb_ld;
  f.pixels = *pixels;
  f.columns = out.c;
  f.column_tiles = (out.c + plan.columns - 1) / plan.columns;
  f.rows_per_image = out.h / a.phases;
  f.images = out.n;
  f.phase_h = a.phase_h;
  f.phase_w = a.phase_w;
  f.steps0 = (a.in0.c + kWgmmaDepth - 1) / kWgmmaDepth;
  f.steps1 = (a.in1.c + kWgmmaDepth - 1) / kWgmmaDepth;
  f.channels0 = a.in0.c;
  f.stride = a.stride;
  f.taps = a.taps;
  std::copy(a.tap, a.tap + 9, f.tap);
  plan.tiles = pixels->count * f.column_tiles;
  return plan;
}

// The taps of a 3x3 convolution, and those by which an input pixel of the given phase is read.
inline void forward_taps(WgmmaForwardArguments& a, int pad) {
  for (int r = 0; r < 3; r++)
    for (int s = 0; s < 3; s++)
      a.tap[a.taps++] = {static_cast<signed char>(r - pad), static_cast<signed char>(s - pad), static_cast<unsigned char>(3 * r + s)};
}
inline void input_gradient_taps(WgmmaForwardArguments& a, int pad, int stride) {
  // Output pixel i reads input i·stride + r - pad; so input u·stride + phase is read by outputs u + (phase + pad - r)/stride, where that is whole.
  for (int r = 0; r < 3; r++)
    for (int s = 0; s < 3; s++) {
      int h = a.phase_h + pad - r, w = a.phase_w + pad - s;
      if (h % stride || w % stride) continue;
      a.tap[a.taps++] = {static_cast<signed char>(h / stride), static_cast<signed char>(w / stride), static_cast<unsigned char>(3 * r + s)};
    }
}

// partial (ranges, K, row_length) of dw; x's channels stand at first_column of each tap, tap_stride from tap to tap.
struct WgmmaWeightGradientArguments {
  Bf16 dy, x;
  int row_length = 0, first_column = 0, tap_stride = 0, stride = 1, taps = 1, pad = 0;  // 1 or 9 taps
};
inline std::optional<WgmmaPlan<WgmmaWeightGradient>> plan_wgmma(const WgmmaWeightGradientArguments& a) {
  auto pixels = cover_pixels(a.dy.n, a.dy.h, a.dy.w, kWgmmaDepth);
  if (!wgmma_addressable(a.dy) || !wgmma_addressable(a.x) || !pixels) return {};
  WgmmaPlan<WgmmaWeightGradient> plan{};
  WgmmaWeightGradient& g = plan.parameters;
  g.pixels = *pixels;
  g.rows = a.dy.c;
  g.row_tiles = (a.dy.c + kWgmmaRows - 1) / kWgmmaRows;
  g.columns = a.x.c;
  plan.columns = a.x.c > 128 ? 256 : a.x.c > 64 ? 128 : 64;
  g.column_tiles = (a.x.c + plan.columns - 1) / plan.columns;
  g.dy = map_of_pixels(a.dy, pixels->box, 1);
  g.x = map_of_pixels(a.x, pixels->box, a.stride);
  // Ranges of pixels: the fewest steps in a row, a tile's end counted as 12 and each range's sums as a quarter.
  int tiles = g.row_tiles * a.taps * g.column_tiles, steps = pixels->count;
  double least = 1e30;
  for (int ranges = 1; ranges <= std::min(steps, 64); ranges++) {
    int per_range = (steps + ranges - 1) / ranges;
    double price = double((tiles * ranges + kPlannedMultiprocessors - 1) / kPlannedMultiprocessors) * (per_range + 12) + 0.25 * ranges;
    if (price >= least) continue;
    least = price;
    g.steps_per_range = per_range;
  }
  g.ranges = (steps + g.steps_per_range - 1) / g.steps_per_range;
  g.row_length = a.row_length;
  g.first_column = a.first_column;
  g.tap_stride = a.tap_stride;
  g.stride = a.stride;
  g.taps = a.taps;
  for (int t = 0; t < a.taps; t++)
    g.tap[t] = {static_cast<signed char>(t / 3 - a.pad), static_cast<signed char>(t % 3 - a.pad), static_cast<unsigned char>(t)};
  plan.tiles = tiles * g.ranges;
  return plan;
}

}  // namespace phx
