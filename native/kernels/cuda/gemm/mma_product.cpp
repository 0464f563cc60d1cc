// Plans and launches of the products on Ampere's tensor cores.
#include "kernels/cuda/gemm/mma_product.h"

#include <algorithm>

#include "kernels/cuda/conv2d.cuh"
#include "kernels/cuda/gemm/dispatch.h"

namespace phx {
namespace {

template <class Parameters>
struct TwoTiles {
  Kernel<Parameters> of128, of64;
  TwoTiles(const char* name128, const char* name64)
      : of128(name128, {.shared_bytes = mma_shared_bytes(128)}), of64(name64, {.shared_bytes = mma_shared_bytes(64)}) {}
  void operator()(int tile, unsigned z, const Parameters& p) const {
    auto tiles = [tile](int count) { return unsigned(ceil_div(count, tile)); };
    (tile == 128 ? of128 : of64)({tiles(p.rows), tiles(p.columns), z}, unsigned(mma_threads(tile)), p);
  }
};
const TwoTiles<MmaProduct> forward_kernels("mma_forward_128_kernel", "mma_forward_64_kernel"),
    input_gradient_kernels("mma_input_gradient_128_kernel", "mma_input_gradient_64_kernel");
const TwoTiles<MmaWeightGradient> weight_gradient_kernels("mma_weight_gradient_128_kernel", "mma_weight_gradient_64_kernel");

// The tile's side: 128 where enough tiles of it come together to fill a GPU, else 64. Follows from the shape alone.
constexpr int kTilesThatFill = 96;
int tile_of(int rows, int columns, int count) {
  if (int forced = forced_mma_tile()) return forced;
  return columns > 64 && ceil_div(rows, 128) * ceil_div(columns, 128) * count >= kTilesThatFill ? 128 : 64;
}

MmaProduct of_rows(const Tensor& like, int columns) {
  MmaProduct p{};
  p.rows = int(like.rows());
  p.columns = p.split = columns;
  p.h = like.h, p.w = like.w;
  p.phases = p.step = 1;
  return p;
}
// The pixels of an image in phases² of every phases-th a side.
MmaProduct of_phases(const Tensor& like, int columns, int phases) {
  MmaProduct p = of_rows(like, columns);
  p.phases = phases;
  p.rows /= phases * phases;
  p.h /= phases, p.w /= phases;
  return p;
}
// Phases in order.
void add_tap(MmaProduct& p, int phase, int h, int w, int operands, int weights) {
  int end = p.first_tap[phase + 1]++;
  p.tap[end] = {short(h), short(w), operands, weights};
  for (int later = phase + 1; later < p.phases * p.phases; later++) p.first_tap[later + 1] = p.first_tap[later];
}

MmaOperands operands(const Tensor& in, const Tensor& w) { return {view(in), w.bf16(), w.h * w.w * w.ld}; }
// [x0 | x1] · w, pixel by pixel, as operands `first` and the next.
void add_inputs(MmaProduct& p, int first, const Tensor& x0, const Tensor& x1, const Tensor& w) {
  p.operands[first] = operands(x0, w);
  add_tap(p, 0, 0, 0, first, 0);
  if (!x1) return;
  p.operands[first + 1] = operands(x1, w);
  add_tap(p, 0, 0, 0, first + 1, x0.c);
}

void launch(const TwoTiles<MmaProduct>& kernels, const MmaProduct& p) {
  int phases = p.phases * p.phases;
  kernels(tile_of(p.rows, p.columns, phases), unsigned(phases), p);
}

}  // namespace

void mma_conv2d_forward(Tensor y, Tensor x, Tensor temb, Tensor residual, const Shortcut& shortcut, Tensor w, Tensor b, Conv2d a) {
  MmaProduct p = of_phases(y, y.c, a.upsample);
  p.operands[0] = operands(x, w);
  p.step = a.stride;
  if (a.upsample == 1)
    for (int t = 0; t < 9; t++) add_tap(p, 0, t / 3 - a.pad, t % 3 - a.pad, 0, t * x.c);
  else
    for (int phase = 0; phase < 4; phase++)
      for (int t = 0; t < 4; t++) {
        int r = phase / 2 * 2 + t / 2, s = phase % 2 * 2 + t % 2;
        add_tap(p, phase, folded_pixel(r), folded_pixel(s), 0, (r * kFolded + s) * x.c);
      }
  if (shortcut.x0) {
    add_inputs(p, 1, shortcut.x0, shortcut.x1, shortcut.w);
    p.shortcut_b = view(shortcut.b);
  }
  p.b = view(b), p.temb = view(temb), p.residual = view(residual);
  p.out[0] = view(Grad{y});
  launch(forward_kernels, p);
}

// An input pixel i·phases + phase is read through tap r by output (i·stride + r - pad), an enlarged one through folded weights.
void mma_conv2d_input_gradient(Grad dx, Tensor dy, Tensor w, Conv2d a) {
  MmaProduct p = of_phases(dx.t, dx.t.c, a.stride);
  p.step = a.upsample;
  p.operands[0] = operands(dy, w);
  int side = a.upsample == 2 ? kFolded : 3;
  for (int phase = 0; phase < a.stride * a.stride; phase++)
    for (int r = 0; r < side; r++)
      for (int s = 0; s < side; s++) {
        int h = phase / 2 + a.pad - r, v = phase % 2 + a.pad - s;
        if (a.upsample == 2)
          add_tap(p, phase, r - 1, s - 1, 0, (kFolded * folded_reader(r) + folded_reader(s)) * dx.t.c);
        else if (h % a.stride == 0 && v % a.stride == 0)
          add_tap(p, phase, h / a.stride, v / a.stride, 0, (3 * r + s) * dx.t.c);
      }
  p.out[0] = view(dx);
  launch(input_gradient_kernels, p);
}

// A linear layer is a convolution of one tap an input, over images of one pixel.
void mma_linear_forward(Tensor y, Tensor x0, Tensor x1, Tensor residual, Tensor w, Tensor b) {
  auto pixels = [](Tensor t) { return t ? Tensor{t.data, int(t.rows()), 1, 1, t.c, t.ld, t.type} : t; };
  MmaProduct p = of_rows(pixels(y), y.c);
  add_inputs(p, 0, pixels(x0), pixels(x1), w);
  p.b = view(b), p.residual = view(residual);
  p.out[0] = view(Grad{y});
  launch(forward_kernels, p);
}

void mma_linear_input_gradient(Grad dx0, Grad dx1, Tensor dy, Tensor w, int columns0) {
  Tensor rows{dy.data, int(dy.rows()), 1, 1, dy.c, dy.ld, dy.type};
  MmaProduct p = of_rows(rows, w.c);
  p.operands[0] = operands(rows, w);
  add_tap(p, 0, 0, 0, 0, 0);
  p.out[0] = view(dx0), p.out[1] = view(dx1);
  p.split = columns0;
  launch(input_gradient_kernels, p);
}

namespace {

// Cuts the pixels into ranges so that there are tiles enough for twice a GPU, each of at least 8 steps.
MmaWeightGradient of_pixels(const Tensor& dy, int columns) {
  constexpr int kMinPixels = 8 * kMmaDepth, kMaxRanges = 64;
  MmaWeightGradient g{};
  g.rows = dy.c;
  g.columns = columns;
  g.pixels = int(dy.rows());
  g.h = dy.h, g.w = dy.w;
  g.dy = view(dy);
  g.step = 1;
  int tile = columns > 64 && dy.c > 64 ? 128 : 64, tiles = ceil_div(dy.c, tile) * ceil_div(columns, tile);
  int count = std::clamp(ceil_div(2 * kTilesThatFill, tiles), 1, std::min(kMaxRanges, ceil_div(g.pixels, kMinPixels)));
  g.range = ceil_div(ceil_div(g.pixels, count), kMmaDepth) * kMmaDepth;
  return g;
}

}  // namespace

MmaWeightGradient mma_conv2d_weight_gradient(Tensor dy, Tensor x, Conv2d a) {
  MmaWeightGradient g = of_pixels(dy, 9 * x.c);
  g.in[0] = view(x);
  g.step = a.stride;
  g.enlarged = a.upsample - 1;
  g.pad = a.pad;
  g.taps = 9;
  return g;
}

MmaWeightGradient mma_linear_weight_gradient(Tensor dy, Tensor x0, Tensor x1) {
  auto pixels = [](Tensor t) { return t ? Tensor{t.data, int(t.rows()), 1, 1, t.c, t.ld, t.type} : t; };
  MmaWeightGradient g = of_pixels(pixels(dy), x0.c + (x1 ? x1.c : 0));
  g.in[0] = view(pixels(x0)), g.in[1] = view(pixels(x1));
  g.taps = 1;
  return g;
}

void mma_weight_gradient(MmaWeightGradient g, GradientParts parts) {
  g.parts = parts;
  weight_gradient_kernels(tile_of(g.rows, g.columns, ranges(g)), unsigned(ranges(g)), g);
}

}  // namespace phx
