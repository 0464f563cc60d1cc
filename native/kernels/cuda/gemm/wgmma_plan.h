// How products on Hopper's tensor cores are cut into tiles, and their tensor maps. Everything follows from the shapes alone, never from the
// card or from a measurement, so that equal seeds give equal bits. Which products run there: dispatch.cuda.cpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>

#include "kernels/cuda/conv2d.cuh"
#include "kernels/cuda/gemm/wgmma_product.cuh"
#include "kernels/ops.h"

namespace phx {

constexpr int kPlannedMultiprocessors = 132;  // of an H100 SXM or H200; only the cut into tiles depends on it
constexpr int kMaxCopied = 256;               // of a side of the box of pixels that a copy takes or steps over

inline int tiles_of(int count, int tile) { return ceil_div(count, tile); }

// A matrix as an image of one line.
inline Tensor as_line(const Tensor& t) { return t ? Tensor{t.data, 1, 1, int(t.rows()), t.c, t.ld, t.type} : Tensor{}; }

template <class T, size_t Size, class... Values>
void set(T (&to)[Size], Values... values) {
  T given[] = {T(values)...};
  std::copy(std::begin(given), std::end(given), to);
}

// Tiles of `pixels` pixels that are boxes of (N,H,W); none if rows of the image do not fit into one evenly. A tile may hang over at the end
// of a row of more than `pixels`, and over the last image.
inline std::optional<PixelTiles> cover_pixels(int n, int h, int w, int pixels) {
  if (w >= pixels) return PixelTiles{{1, 1, pixels}, tiles_of(w, pixels), h, tiles_of(w, pixels) * h * n};
  if (pixels % w) return {};
  int rows = pixels / w;
  if (h >= rows) return h % rows ? std::nullopt : std::optional(PixelTiles{{1, rows, w}, 1, h / rows, h / rows * n});
  if (rows % h) return {};
  return PixelTiles{{rows / h, h, w}, 1, 1, tiles_of(n, rows / h)};
}

// Whether a convolution, and its inputs' gradient, reads a pixel and the eight around it.
inline bool reads_neighbours(Conv2d a) { return a.stride == 1 && a.pad == 1 && a.upsample == 1; }
// Tiles of two patches, side by side or of two images; none if the image is not made of such.
inline std::optional<PixelTiles> cover_patches(int n, int h, int w) {
  if (h % kPatch) return {};
  if (w % (2 * kPatch) == 0)
    return PixelTiles{{1, kPatch, 2 * kPatch}, w / (2 * kPatch), h / kPatch, n * (h / kPatch) * (w / (2 * kPatch))};
  if (w != kPatch) return {};
  return PixelTiles{{2, kPatch, kPatch}, 1, h / kPatch, tiles_of(n, 2) * (h / kPatch)};
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

// The same of a patch of results: (N, H, W, 1, C).
inline TensorMap map_of_patch(const Tensor& t) {
  uint64_t pixel = uint64_t(t.ld) * 2;
  TensorMapShape s;
  s.rank = 5;
  set(s.sizes, t.c, 1, t.w, t.h, t.n);
  set(s.distances, pixel, pixel, pixel * t.w, pixel * t.w * t.h);
  set(s.box, 64, 1, kPatch, kPatch, 1);
  s.swizzle = 128;
  return tensor_map(t.data, s);
}

// Columns of a tile, 64, 128 or 256: the choice with the lowest waves · cost per tile. The costs are relative to a tile of 128 columns;
// they are estimates, not measured on a GPU. A wide tile reads less for the same sums. columns: of one or two tensors of results, 0 if
// there is no second.
inline int wgmma_columns(int pixel_tiles, int columns0, int columns1) {
  struct Price {
    int columns;
    double tile;
  };
  constexpr Price prices[] = {{256, 1.8}, {128, 1.0}, {64, 0.6}};
  int best = 64;
  double least = 1e30;
  for (Price p : prices) {
    if (p.columns >= 2 * std::max(columns0, columns1) && p.columns > 64) continue;
    int tiles = pixel_tiles * (tiles_of(columns0, p.columns) + tiles_of(columns1, p.columns));
    double price = tiles_of(tiles, kPlannedMultiprocessors) * p.tile;
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
  bool pairs = false;  // blocks work two by two and share an operand: the weights; in the weights' gradient x or dy
  bool halo = false;   // wgmma_halo.cu
};
// How to cut, where it is not left to the table.
struct Tiling {
  int columns = 0;   // 64, 128, 256, in weights' gradients also 192
  int pairs = -1;    // 0, 1
  bool halo = true;  // where it can be had
};

// out = in0|in1 · weights (taps as given) + the same of the shortcut, one tap + biases + temb + residual. In the inputs' gradient in0 is dy
// and out are dx0 and dx1.
struct WgmmaForwardArguments {
  struct Operands {
    Tensor in0, in1;
    Tensor weights;  // (K,3,3,C), folded (K,4,4,C), or (K,1,1,C): a row of `ld` values for each tap of a k
    Tensor bias;
  } window, shortcut;
  struct Output {
    Tensor to, residual;
  } out[2];
  bool input_gradient = false;
  Tensor temb;
  int stride = 1, phases = 1;  // out's pixels of a phase are every `phases`-th
  bool halo = false;           // whether the taps are the nine around a pixel, and may be read from one copy of it and its neighbours
  Tiling tiling;
  int taps = 0, first_tap[5] = {};
  Tap tap[kMaxTaps] = {};
};
inline WgmmaPlan<WgmmaForward> plan_wgmma(const WgmmaForwardArguments& a) {
  const Tensor &out0 = a.out[0].to, &out1 = a.out[1].to;
  WgmmaPlan<WgmmaForward> plan{};
  std::optional<PixelTiles> patches;
  if (a.halo) patches = cover_patches(out0.n, out0.h, out0.w);
  plan.halo = bool(patches);
  const PixelTiles pixels = patches ? *patches : cover_pixels(out0.n, out0.h / a.phases, out0.w / a.phases, kWgmmaRows).value();
  auto map_of_output = [&](const Tensor& t) { return plan.halo ? map_of_patch(t) : map_of_results(t, pixels.box, a.phases); };
  WgmmaForward& f = plan.parameters;
  int all_phases = a.phases * a.phases;
  plan.columns = a.tiling.columns ? a.tiling.columns : wgmma_columns(pixels.count * all_phases, out0.c, out1.c);
  int column_tiles = tiles_of(out0.c, plan.columns) + tiles_of(out1.c, plan.columns);
  plan.pairs = plan.columns > 64 && (a.tiling.pairs < 0 ? pixels.count > 1 : a.tiling.pairs == 1);
  auto operands = [&](const WgmmaForwardArguments::Operands& from, PixelBox read) {
    WgmmaOperands to{};
    to.in[0] = map_of_pixels(from.in0, read, a.stride);
    to.in[1] = from.in1 ? map_of_pixels(from.in1, read, a.stride) : to.in[0];
    to.weights = map_of_weights(from.weights, a.input_gradient ? 64 : plan.pairs ? plan.columns / 2 : plan.columns);
    to.steps0 = tiles_of(from.in0.c, kWgmmaDepth);
    to.steps = to.steps0 + tiles_of(from.in1.c, kWgmmaDepth);
    to.channels0 = from.in0.c;
    to.bias = from.bias.data;
    return to;
  };
  PixelBox window = pixels.box;
  if (plan.halo) window.h += 2, window.w += 2;
  f.window = operands(a.window, window);
  if (a.shortcut.in0) f.shortcut = operands(a.shortcut, pixels.box);
  for (int i = 0; i < 2; i++) {
    const auto& [to, residual] = a.out[i];
    if (!to) continue;
    f.out[i].to = map_of_output(to);
    f.out[i].residual = residual ? map_of_output(residual) : f.out[i].to;
    f.out[i].columns = to.c;
    f.out[i].tiles = tiles_of(to.c, plan.columns);
    f.out[i].has_residual = bool(residual);
  }
  f.temb = reinterpret_cast<const __nv_bfloat16*>(a.temb.data);
  f.temb_ld = a.temb.ld;
  f.pixels = pixels;
  f.rows_per_image = out0.h / a.phases;
  f.images = out0.n;
  f.stride = a.stride;
  f.phases = a.phases;
  std::copy(std::begin(a.first_tap), std::end(a.first_tap), f.first_tap);
  std::copy(a.tap, a.tap + kMaxTaps, f.tap);
  plan.tiles = (plan.pairs ? (pixels.count + 1) / 2 * 2 : pixels.count) * column_tiles * all_phases;
  return plan;
}

inline Tap tap_at(int h, int w, int index) {
  return {static_cast<signed char>(h), static_cast<signed char>(w), static_cast<unsigned char>(index)};
}
// Output pixel i reads input i·stride + r - pad. Enlarged twice, outputs 2u + phase read inputs u + phase - 1 and u + phase, through folded
// weights.
inline void add_forward_taps(WgmmaForwardArguments& a, Conv2d x, int phase_h, int phase_w) {
  int side = x.upsample == 2 ? 2 : 3;
  for (int r = 0; r < side; r++)
    for (int s = 0; s < side; s++) {
      int p = 2 * phase_h + r, q = 2 * phase_w + s;  // the folded sums
      a.tap[a.taps++] =
          x.upsample == 2 ? tap_at(folded_pixel(p), folded_pixel(q), kFolded * p + q) : tap_at(r - x.pad, s - x.pad, 3 * r + s);
    }
}
// Input u·stride + phase is read by outputs u + (phase + pad - r)/stride, where that is whole. Enlarged twice, u is read by outputs 2u - 1
// … 2u + 2.
inline void add_input_gradient_taps(WgmmaForwardArguments& a, Conv2d x, int phase_h, int phase_w) {
  int side = x.upsample == 2 ? kFolded : 3;
  for (int r = 0; r < side; r++)
    for (int s = 0; s < side; s++) {
      int h = phase_h + x.pad - r, w = phase_w + x.pad - s;
      if (x.upsample == 2)
        a.tap[a.taps++] = tap_at(r - 1, s - 1, kFolded * folded_reader(r) + folded_reader(s));
      else if (h % x.stride == 0 && w % x.stride == 0)
        a.tap[a.taps++] = tap_at(h / x.stride, w / x.stride, 3 * r + s);
    }
}

// Parts (ranges, K, taps·(C0 + C1)) of dw, and (ranges, phases, K) of db.
struct WgmmaWeightGradientArguments {
  Tensor dy, x0, x1;
  int taps = 1;  // 9 of `window`, 16 of folded weights
  Conv2d window;
  Tiling tiling;
};
inline WgmmaPlan<WgmmaWeightGradient> plan_wgmma(const WgmmaWeightGradientArguments& a) {
  int up = a.window.upsample;
  const PixelTiles pixels = cover_pixels(a.dy.n, a.dy.h / up, a.dy.w / up, kWgmmaDepth).value();
  WgmmaPlan<WgmmaWeightGradient> plan{};
  WgmmaWeightGradient& g = plan.parameters;
  g.pixels = pixels;
  g.stride = a.window.stride;
  g.upsample = up;
  g.phases = up * up;
  g.taps = a.taps / g.phases;
  for (int t = 0; t < a.taps; t++) {
    int phase = t / g.taps, p = phase / 2 * 2 + t % g.taps / 2, q = phase % 2 * 2 + t % 2;  // the folded sums
    g.tap[t] = a.taps == 1 ? Tap{}
               : up == 2   ? tap_at(folded_pixel(p), folded_pixel(q), kFolded * p + q)
                           : tap_at(t / 3 - a.window.pad, t % 3 - a.window.pad, t);
  }
  g.dy = map_of_pixels(a.dy, pixels.box, up);
  g.x[0] = map_of_pixels(a.x0, pixels.box, a.window.stride);
  g.x[1] = a.x1 ? map_of_pixels(a.x1, pixels.box, a.window.stride) : g.x[0];
  set(g.columns, a.x0.c, a.x1.c);
  set(g.blocks, tiles_of(a.x0.c, 64), tiles_of(a.x1.c, 64));
  g.rows = a.dy.c;
  g.row_tiles = tiles_of(a.dy.c, kWgmmaRows);
  // Columns of a tile, and whether blocks work in pairs: the fewest cycles of a step of all columns. A multiprocessor multiplies 128 rows
  // with four columns in 16 cycles for 64 pixels, and gets some 30 bytes per cycle. Pairs of columns may leave one of two tiles empty.
  g.pair_rows = g.row_tiles % 2 == 0;
  int blocks = g.taps * (g.blocks[0] + g.blocks[1]);
  double least = 1e30;
  for (int columns : {256, 192, 128, 64})
    for (bool pairs : {true, false}) {
      if (a.tiling.columns && columns != a.tiling.columns) continue;
      if (a.tiling.pairs >= 0 ? pairs != (a.tiling.pairs == 1) : pairs && columns == 64) continue;
      int tiles = tiles_of(blocks, columns / 64), rows = kWgmmaRows, read = columns;
      if (pairs) (g.pair_rows ? read : rows) /= 2;
      if (pairs && !g.pair_rows) tiles = tiles_of(tiles, 2) * 2;
      double price = tiles * std::max(4.0 * columns, (rows + read) * kWgmmaDepth * 2 / 30.0);
      if (price >= least) continue;
      least = price;
      plan.columns = columns;
      plan.pairs = pairs;
      g.column_tiles = tiles;
    }
  // Ranges of pixels: the fewest steps in a row, a tile's end counted as 12 and each range's sums as a quarter.
  int tiles = g.row_tiles * g.column_tiles * g.phases, steps = pixels.count;
  least = 1e30;
  for (int ranges = 1; ranges <= std::min(steps, 64); ranges++) {
    int per_range = tiles_of(steps, ranges);
    double price = double(tiles_of(tiles * ranges, kPlannedMultiprocessors)) * (per_range + 12) + 0.25 * ranges;
    if (price >= least) continue;
    least = price;
    g.steps_per_range = per_range;
  }
  g.steps = steps;
  g.ranges = tiles_of(steps, g.steps_per_range);
  plan.tiles = tiles * g.ranges;
  return plan;
}

// ---- the ops' plans; of a weights' gradient `parts` is still to be set

// add_taps(a, phase_h, phase_w): the taps of a phase.
template <class AddTaps>
WgmmaPlan<WgmmaForward> plan_phases(WgmmaForwardArguments a, AddTaps add_taps) {
  for (int phase = 0; phase < a.phases * a.phases; phase++) {
    add_taps(a, phase / a.phases, phase % a.phases);
    a.first_tap[phase + 1] = a.taps;
  }
  return plan_wgmma(a);
}
inline WgmmaPlan<WgmmaForward> plan_conv2d_forward(Tensor y, Tensor x, Tensor temb, Tensor residual, const Shortcut& s, Tensor w, Tensor b,
                                                   Conv2d window, Tiling tiling = {}) {
  WgmmaForwardArguments a;
  a.window = {x, {}, w, b}, a.shortcut = {s.x0, s.x1, s.w, s.b}, a.out[0] = {y, residual}, a.temb = temb, a.tiling = tiling;
  a.stride = window.stride, a.phases = window.upsample, a.halo = tiling.halo && reads_neighbours(window);
  return plan_phases(a, [&](auto& a, int h, int w) { add_forward_taps(a, window, h, w); });
}
inline WgmmaPlan<WgmmaForward> plan_conv2d_input_gradient(Grad dx, Tensor dy, Tensor w, Conv2d window, Tiling tiling = {}) {
  WgmmaForwardArguments a;
  a.window = {dy, {}, w, {}}, a.out[0] = {dx.t, dx.accumulate ? dx.t : Tensor{}}, a.input_gradient = true, a.tiling = tiling;
  a.stride = window.upsample, a.phases = window.stride, a.halo = tiling.halo && reads_neighbours(window);
  return plan_phases(a, [&](auto& a, int h, int w) { add_input_gradient_taps(a, window, h, w); });
}
inline WgmmaPlan<WgmmaWeightGradient> plan_conv2d_weight_gradient(Tensor dy, Tensor x, Conv2d window, Tiling tiling = {}) {
  return plan_wgmma({dy, x, {}, window.upsample == 2 ? kFolded * kFolded : 9, window, tiling});
}
inline WgmmaPlan<WgmmaForward> plan_linear_forward(Tensor y, Tensor x0, Tensor x1, Tensor residual, Tensor w, Tensor b) {
  WgmmaForwardArguments a;
  a.window = {as_line(x0), as_line(x1), w, b}, a.out[0] = {as_line(y), as_line(residual)};
  return plan_phases(a, [](auto& a, int, int) { a.taps = 1; });
}
// One of the two may be empty; dx0's columns of the weights are the first columns0.
inline WgmmaPlan<WgmmaForward> plan_linear_input_gradient(Grad dx0, Grad dx1, Tensor dy, Tensor w, int columns0) {
  WgmmaForwardArguments a;
  auto output = [](const Grad& dx) { return WgmmaForwardArguments::Output{as_line(dx.t), dx.accumulate ? as_line(dx.t) : Tensor{}}; };
  a.window = {as_line(dy), {}, dx0 ? w : w.channels(columns0, w.c - columns0), {}}, a.input_gradient = true;
  a.out[0] = output(dx0 ? dx0 : dx1);
  if (dx0 && dx1) a.out[1] = output(dx1);
  return plan_phases(a, [](auto& a, int, int) { a.taps = 1; });
}
inline WgmmaPlan<WgmmaWeightGradient> plan_linear_weight_gradient(Tensor dy, Tensor x0, Tensor x1) {
  return plan_wgmma({as_line(dy), as_line(x0), as_line(x1), 1, {}, {}});
}

}  // namespace phx
