// F(4x4,3x3): 6x6 tiles of x, 4 apart, and 3x3 filters go into 36 frequencies each; there the convolution is 36 matrix products
// M = V·U over tiles and channels, and back.  Lavin & Gray 2016, §4.1-4.2. The data gradient is the same with w mirrored and its channels
// exchanged; the weight gradient is dU = Mᵀ V with M = A dy Aᵀ, dw = Gᵀ dU G.
// Of a map enlarged twofold the 6x6 pixels of a tile are only 4x4 different ones, and 25 products do (winograd.simd.cpp; larger tiles lose,
// lab/upsampled_tiles.cpp). What follows is the same for each WinogradTransforms.
// Tiles are processed in blocks, so that V and M of a block, at most 36·(C+K)·4 bytes per tile, stay in L2 while U is streamed once per
// block. A block's height is a multiple of the register tile's. The weight gradient reads and writes dU once per block, so its blocks are
// longer. The sizes are measured: docs/performance.md, "Blocks of Winograd tiles". Products prefetch (Ahead): the maps that the transforms
// read and write come into L2 while sums are formed.
#include "kernels/cpu/winograd.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/simd/gemm.h"
#include "kernels/cpu/simd/winograd.h"
#include "kernels/parallel.h"

namespace phx {
namespace {

constexpr int kFewTiles = 64;    // V of 512 channels = 4.9 MB, in L3
constexpr int kFilterRows = 32;  // depth rows of w transformed at a time: 9·32·32 floats = 36 KB

// Rows and frequencies lie a cache line more than a power of two apart: else 14 rows or 36 frequencies would share few sets of the L1
// cache.
int padded(int count) { return round_up(count, 32) + 16; }

// Frequencies in two dimensions, and which of them product e multiplies.
int v_count(const WinogradTransforms& a) { return a.v_side * a.v_side; }
int u_count(const WinogradTransforms& a) { return a.u_side * a.u_side; }
int m_count(const WinogradTransforms& a) { return a.m_side * a.m_side; }
int v_of(const WinogradTransforms& a, int e) { return a.v_of[e / a.m_side] * a.v_side + a.v_of[e % a.m_side]; }
int u_of(const WinogradTransforms& a, int e) { return a.u_of[e / a.m_side] * a.u_side + a.u_of[e % a.m_side]; }

// The 4x4 tiles of N maps of h × w pixels.
struct Tiles {
  int h, w, down, across, count;
  Tiles(int n, int h_, int w_) : h(h_), w(w_), down((h_ + 3) / 4), across((w_ + 3) / 4), count(n * down * across) {}
  int image(int t) const { return t / (down * across); }
  int top(int t) const { return t / across % down * 4; }
  int left(int t) const { return t % across * 4; }
};

// Pointers to side × side pixels of image n from (top, left) on; `outside` where there are none.
template <int side>
void square(const Tensor& x, int n, int top, int left, real* outside, real** out) {
  for (int r = 0; r < side; r++) {
    bool in_map = unsigned(top + r) < unsigned(x.h);
    real* line = in_map ? x.row((size_t(n) * x.h + top + r) * x.w) : nullptr;
    for (int s = 0; s < side; s++) {
      bool inside = in_map && unsigned(left + s) < unsigned(x.w);
      out[r * side + s] = inside ? line + ptrdiff_t(left + s) * x.ld : outside;
    }
  }
}

// The pixels of x, a map like that of the tiles or half as large, that tile t makes or, with a margin of 1, reads.
void pixels_of(const Tensor& x, const Tiles& tiles, int t, int margin, int side, real* outside, real** out) {
  int shift = x.h < tiles.h, n = tiles.image(t), top = (tiles.top(t) >> shift) - margin, left = (tiles.left(t) >> shift) - margin;
  (side == 6 ? square<6> : side == 4 ? square<4> : square<2>)(x, n, top, left, outside, out);
}

void transform_input(const WinogradTransforms& a, const Tensor& x, const Tiles& tiles, real* zeros, int first, int last, real* v,
                     ptrdiff_t row, ptrdiff_t stride, ptrdiff_t panel) {
  real* pixels[36];
  for (int t = first; t < last; t++, v += row) {
    pixels_of(x, tiles, t, 1, a.window, zeros, pixels);
    a.input(x.c, pixels, v, stride, panel);
  }
}

// A (rows, columns) matrix for each of the nine taps, to be transformed into panels: element (d,i) at data + tap·`tap` + d·`depth` +
// i·`column`.
struct Filter {
  const real* data;
  int rows, columns;
  ptrdiff_t tap, depth, column;
  bool mirrored;
};

// Depth rows [d, d + rows) of panel j into u, frequencies `stride` apart. `taps` holds 9·kFilterRows·nr reals.
void transform_filter(const WinogradTransforms& a, const Filter& f, int j, int d, int rows, real* u, ptrdiff_t stride, real* taps) {
  int nr = gemm_microkernels().nr, column = j * nr;
  for (int first = 0; first < rows; first += kFilterRows) {
    int count = std::min(kFilterRows, rows - first);
    const real* from = f.data + (d + first) * f.depth + column * f.column;
    for (int tap = 0; tap < 9; tap++)
      gemm_microkernels().pack(count, std::min(nr, f.columns - column), from + (f.mirrored ? 8 - tap : tap) * f.tap, f.depth, f.column,
                               taps + tap * kFilterRows * nr);
    a.filter(count, taps, kFilterRows * nr, u + size_t(first) * nr, stride);
  }
}

// What becomes of a block's products: y with bias, time embedding and residual.
struct Output {
  Tensor y, bias, temb, residual;
};

Tensor some_channels(const Tensor& t, int first, int count) { return t ? t.channels(first, count) : t; }

Output some_channels(const Output& to, int first, int count) {
  return {some_channels(to.y, first, count), some_channels(to.bias, first, count), some_channels(to.temb, first, count),
          some_channels(to.residual, first, count)};
}

void transform_output(const WinogradTransforms& a, const Output& to, const Tiles& tiles, int first, int last, const real* m, ptrdiff_t row,
                      ptrdiff_t stride) {
  real *y[16], *residual[16];
  for (int t = first; t < last; t++, m += row) {
    pixels_of(to.y, tiles, t, 0, a.outputs, nullptr, y);
    if (to.residual) pixels_of(to.residual, tiles, t, 0, a.outputs, nullptr, residual);
    a.output(to.y.c, m, stride, to.bias.data, to.temb ? to.temb.row(tiles.image(t)) : nullptr, to.residual ? residual : nullptr, y);
  }
}

// Memory to be fetched into L2 while products are formed, which need none: what the transforms before and after would wait for.
class Ahead {
 public:
  // The rows of t that tiles [first,last) touch, `halo` rows more on each side, on a map whose side is side·scale that of the tiles'.
  void add(const Tensor& t, const Tiles& tiles, int first, int last, int halo) {
    if (!t || first >= last || t.ld >= 2 * t.c) return;
    auto line = [&](int tile, int below) {
      return ptrdiff_t(tiles.image(tile)) * t.h + ptrdiff_t(tiles.top(tile) + below) * t.h / tiles.h;
    };
    ptrdiff_t begin = std::max(ptrdiff_t(0), line(first, -halo)), end = std::min(ptrdiff_t(t.n) * t.h, line(last - 1, 4 + halo) + 1);
    spans_[count_++] = {t.row(begin * t.w), t.row(end * t.w)};
  }
  size_t lines() const {
    size_t sum = 0;
    for (int i = at_; i < count_; i++) sum += size_t(spans_[i].end - spans_[i].begin) / kLine;
    return sum;
  }
  void skip(size_t lines) {
    for (; at_ < count_; at_++) {
      size_t here = size_t(spans_[at_].end - spans_[at_].begin) / kLine;
      if (lines < here) break;
      lines -= here;
    }
    if (at_ < count_) spans_[at_].begin += lines * kLine;
  }
  // From where the next `lines` cache lines lie; null when there is no more.
  const real* take(int lines) {
    while (at_ < count_ && spans_[at_].begin >= spans_[at_].end) at_++;
    if (at_ == count_) return nullptr;
    const real* from = spans_[at_].begin;
    spans_[at_].begin += size_t(lines) * kLine;
    return from;
  }

 private:
  static constexpr int kLine = 64 / sizeof(real);
  struct Span {
    const real *begin, *end;
  };
  Span spans_[4];
  int count_ = 0, at_ = 0;
};

int block_of(int channels) { return channels > 384 && channels <= 512 ? 14 : 28; }

// Many tiles: all of U first, then each thread takes tiles, block by block through all three steps.
void convolve_many(Context& ctx, const WinogradTransforms& a, const Output& to, const Tensor& x, const Tiles& tiles, const Filter& f) {
  const GemmMicrokernels& micro = gemm_microkernels();
  int nr = micro.nr, c = x.c, k = to.y.c, ldv = padded(c), ldm = padded(k), panels = ceil_div(k, nr), block = block_of(c + k);
  size_t threads = ctx.threads(), u_stride = size_t(panels) * nr * c + 16, v_stride = size_t(block) * ldv + 16,
         m_stride = size_t(block) * ldm + 16;
  size_t taps_size = size_t(9) * kFilterRows * nr, share = std::max(v_stride * v_count(a) + m_stride * m_count(a), taps_size),
         zeros_size = padded(c);
  real* zeros = ctx.scratch(zeros_size + u_stride * u_count(a) + share * threads);
  real *u = zeros + zeros_size, *shares = u + u_stride * u_count(a);
  std::memset(zeros, 0, zeros_size * sizeof(real));
  size_t pieces = ceil_div(c, kFilterRows), filters = panels * pieces;
  parallel_for(ctx, threads, [&](size_t begin, size_t end) {
    for (size_t thread = begin; thread < end; thread++)
      for (size_t i = filters * thread / threads; i < filters * (thread + 1) / threads; i++) {
        int j = int(i / pieces), d = int(i % pieces) * kFilterRows;
        transform_filter(a, f, j, d, std::min(kFilterRows, c - d), u + (size_t(j) * c + d) * nr, u_stride, shares + thread * share);
      }
  });
  parallel_for(ctx, threads, [&](size_t begin, size_t end) {
    for (size_t thread = begin; thread < end; thread++) {
      real *v = shares + thread * share, *m = v + v_stride * v_count(a);
      int past = int(tiles.count * (thread + 1) / threads);
      for (int first = int(tiles.count * thread / threads); first < past; first += block) {
        int last = std::min(past, first + block);
        transform_input(a, x, tiles, zeros, first, last, v, ldv, v_stride, nr);
        Ahead ahead;
        ahead.add(to.y, tiles, first, last, 0);
        ahead.add(to.residual, tiles, first, last, 0);
        ahead.add(x, tiles, last, std::min(past, last + block), 1);
        int lines = gemm_tiles(last - first, micro.mr) * c;
        for (int e = 0; e < m_count(a); e++) {
          const real *left = v + v_of(a, e) * v_stride, *right = u + u_of(a, e) * u_stride;
          for (int j = 0; j < panels; j++)
            micro.panel({last - first, nr, c, left, ldv, 1, right + size_t(j) * nr * c, m + e * m_stride + j * nr, ldm, nullptr, nullptr, 0,
                         false, ahead.take(lines)});
        }
        transform_output(a, to, tiles, first, last, m, ldm, m_stride);
      }
    }
  });
}

// Few tiles, where U is the larger part: all of V first, then each thread takes panels of output channels and makes U for one panel and
// kDepth input channels at a time, in L2 (36·64·32 floats = 295 KB); U as a whole is never written. Where panels are fewer than threads,
// each panel's tiles are cut too, and every cut makes the panel's U for itself: sooner done than waiting for it.
void convolve_few(Context& ctx, const WinogradTransforms& a, const Output& to, const Tensor& x, const Tiles& tiles, const Filter& f) {
  constexpr int kDepth = 64;
  const GemmMicrokernels& micro = gemm_microkernels();
  int nr = micro.nr, c = x.c, k = to.y.c, ldv = padded(c), panels = ceil_div(k, nr);
  int cuts = std::min(tiles.count, ceil_div(ctx.threads(), panels)), most = ceil_div(tiles.count, cuts);
  size_t v_stride = size_t(tiles.count) * ldv + 16, u_stride = size_t(kDepth) * nr + 16, m_stride = size_t(most) * nr + 16;
  size_t share = u_stride * u_count(a) + m_stride * m_count(a) + size_t(9) * kFilterRows * nr, zeros_size = padded(c),
         tasks = size_t(panels) * cuts, threads = std::min(size_t(ctx.threads()), tasks);
  real* zeros = ctx.scratch(zeros_size + v_stride * v_count(a) + share * threads);
  real *v = zeros + zeros_size, *shares = v + v_stride * v_count(a);
  std::memset(zeros, 0, zeros_size * sizeof(real));
  parallel_for(ctx, tiles.count, [&](size_t begin, size_t end) {
    transform_input(a, x, tiles, zeros, int(begin), int(end), v + begin * ldv, ldv, v_stride, nr);
  });
  parallel_for(ctx, threads, [&](size_t begin, size_t end) {
    for (size_t thread = begin; thread < end; thread++) {
      real *u = shares + thread * share, *m = u + u_stride * u_count(a), *taps = m + m_stride * m_count(a);
      for (size_t task = tasks * thread / threads; task < tasks * (thread + 1) / threads; task++) {
        int j = int(task / cuts), first = int(tiles.count * (task % cuts) / cuts), last = int(tiles.count * (task % cuts + 1) / cuts);
        for (int d = 0; d < c; d += kDepth) {
          int depth = std::min(kDepth, c - d);
          transform_filter(a, f, j, d, depth, u, u_stride, taps);
          for (int e = 0; e < m_count(a); e++)
            micro.panel({last - first, nr, depth, v + v_of(a, e) * v_stride + size_t(first) * ldv + d, ldv, 1, u + u_of(a, e) * u_stride,
                         m + e * m_stride, nr, nullptr, d > 0 ? m + e * m_stride : nullptr, nr});
        }
        transform_output(a, some_channels(to, j * nr, std::min(nr, k - j * nr)), tiles, first, last, m, nr, m_stride);
      }
    }
  });
}

// Both ways add up the channels in the same order: they give the same bits.
void convolve(Context& ctx, const WinogradTransforms& a, const Output& to, const Tensor& x, const Tiles& tiles, const Filter& f) {
  (tiles.count <= kFewTiles ? convolve_few : convolve_many)(ctx, a, to, x, tiles, f);
}

const WinogradTransforms& forward_transforms(int zoom) {
  return zoom == 2 ? winograd_microkernels().upsampled : winograd_microkernels().plain;
}

}  // namespace

void winograd_forward(Context& ctx, Tensor y, Tensor x, Tensor temb, Tensor residual, Tensor w, Tensor b, int zoom) {
  convolve(ctx, forward_transforms(zoom), {y, b, temb, residual}, x, Tiles(y.n, y.h, y.w),
           {w.data, x.c, y.c, x.c, 1, ptrdiff_t(9) * x.c, false});
}

void winograd_data_gradient(Context& ctx, Grad dx, Tensor dy, Tensor w, int zoom) {
  int c = dx.t.c;
  convolve(ctx, zoom == 2 ? winograd_microkernels().upsampled_gradient : winograd_microkernels().plain,
           {dx.t, {}, {}, dx.accumulate ? dx.t : Tensor{}}, dy, Tiles(dy.n, dy.h, dy.w), {w.data, dy.c, c, c, ptrdiff_t(9) * c, 1, true});
}

void winograd_weight_gradient(Context& ctx, Tensor dw, Tensor dy, Tensor x, int zoom) {
  constexpr int kRows = 56;  // output channels whose dU is made at a time where all tiles are one block: 36·56·32 floats = 258 KB
  const GemmMicrokernels& micro = gemm_microkernels();
  const WinogradTransforms& a = forward_transforms(zoom);
  Tiles tiles(dy.n, dy.h, dy.w);
  int nr = micro.nr, c = x.c, k = dy.c, panels = ceil_div(c, nr), ldm = padded(k);
  bool at_once = tiles.count <= 128;
  int longest = (c + k <= 128   ? 64
                 : c + k <= 256 ? 96
                                : 128) *
                std::min(ctx.threads(), 4),
      block = at_once ? tiles.count : std::min(tiles.count, longest);
  size_t threads = ctx.threads(), panel = size_t(block) * nr, v_stride = panel * panels + 16, m_stride = size_t(block) * ldm + 16;
  ptrdiff_t ldu = at_once ? nr : panels * nr;
  size_t u_stride = (at_once ? kRows : k) * ldu + 16, zeros_size = padded(std::max(c, k));
  real* zeros = ctx.scratch(zeros_size + v_stride * v_count(a) + m_stride * m_count(a) + u_stride * u_count(a) * (at_once ? threads : 1));
  real *v = zeros + zeros_size, *m = v + v_stride * v_count(a), *u = m + m_stride * m_count(a);
  std::memset(zeros, 0, zeros_size * sizeof(real));
  auto transform = [&](int first, int count) {
    parallel_for(ctx, count, [&](size_t begin, size_t end) {
      transform_input(a, x, tiles, zeros, first + int(begin), first + int(end), v + begin * nr, nr, v_stride, panel);
      real* pixels[16];
      for (int t = int(begin); t < int(end); t++) {
        pixels_of(dy, tiles, first + t, 0, 4, zeros, pixels);
        a.gradient(k, pixels, m + size_t(t) * ldm, m_stride);
      }
    });
  };
  if (at_once) {
    transform(0, block);
    size_t cuts = std::min(size_t(k), std::max(ceil_div(size_t(k), kRows), ceil_div(threads, panels))), tasks = panels * cuts;
    parallel_for(ctx, threads, [&](size_t begin, size_t end) {
      for (size_t thread = begin; thread < end; thread++) {
        real* part = u + thread * u_stride * u_count(a);
        for (size_t task = tasks * thread / threads; task < tasks * (thread + 1) / threads; task++) {
          int j = int(task / cuts), first = int(k * (task % cuts) / cuts), rows = int(k * (task % cuts + 1) / cuts) - first;
          for (int e = 0; e < m_count(a); e++)
            micro.panel(
                {rows, nr, block, m + e * m_stride + first, 1, ldm, v + v_of(a, e) * v_stride + j * panel, part + e * u_stride, nr});
          for (int i = 0; i < rows; i++)
            a.filter_gradient(std::min(nr, c - j * nr), part + size_t(i) * nr, u_stride, dw.data + size_t(first + i) * 9 * c + j * nr, c);
        }
      }
    });
    return;
  }
  for (int first = 0; first < tiles.count; first += block) {
    int count = std::min(block, tiles.count - first);
    transform(first, count);
    int next = first + count, past = std::min(tiles.count, next + block);
    Ahead ahead;
    ahead.add(x, tiles, next, past, 1);
    ahead.add(dy, tiles, next, past, 0);
    size_t units = size_t(m_count(a)) * panels;
    parallel_for(ctx, units, [&](size_t begin, size_t end) {
      Ahead mine = ahead;
      mine.skip(ahead.lines() * begin / units);
      for (size_t unit = begin; unit < end; unit++) {
        size_t e = unit / panels, j = unit % panels;
        real* to = u + e * u_stride + j * nr;
        micro.panel({k, nr, count, m + e * m_stride, 1, ldm, v + v_of(a, int(e)) * v_stride + j * panel, to, ldu, nullptr,
                     first > 0 ? to : nullptr, ldu, false, mine.take(gemm_tiles(k, micro.mr) * count)});
      }
    });
  }
  parallel_for(ctx, k, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) a.filter_gradient(c, u + i * ldu, u_stride, dw.data + i * 9 * c, c);
  });
}

}  // namespace phx
