// 3x3 convolution and its gradients as implicit matrix products: rows are pixels, columns (tap, channel). A block of rows × one block of
// the k axis is gathered into scratch (112 × 256 floats = 112 KB, in L2) and multiplied at once; the whole im2col matrix never exists.
//   y  = gather(x) · wᵀ        dx = gather(dy) · w, taps mirrored        dw = dyᵀ · gather(x)
// Stride 2: dx falls into four interleaved grids of pixels with 4, 2, 2 and 1 taps. Upsample 2: dx sees dy through 4x4 taps of summed
// weights.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/simd/gemm.h"
#include "kernels/cpu/winograd.h"
#include "kernels/ops.h"
#include "kernels/parallel.h"
#include "kernels/shapes.h"

namespace phx {
namespace {

constexpr int kRowsAtOnce = 112;
constexpr int kPixelsAtOnce = 256, kColumnsAtOnce = 128;  // of the weight gradient: 128 KB gathered
constexpr int kRowsOfSum = 256;
constexpr int kNarrow = 4;  // output channels

// What a grid of h × w pixels per image sees of a source map: pixel (i,j) through tap t sees source pixel (i·step + dh[t], j·step + dw[t])
// / zoom, or zeros outside.
struct Stencil {
  Tensor source;
  int h, w, step, zoom;
  int taps = 0;
  int dh[16] = {}, dw[16] = {};
  bool in_lines = false;  // 3x3 taps in the order of w, of a source whose pixels lie side by side
  void add(int h_offset, int w_offset) { dh[taps] = h_offset, dw[taps] = w_offset, taps++; }
  int columns() const { return taps * source.c; }
  size_t rows() const { return size_t(source.n) * h * w; }
};

// Runs of channels are often shorter than what a call of memcpy costs.
void copy(real* to, const real* from, int count) {
  for (; count >= 4; count -= 4, to += 4, from += 4) std::memcpy(to, from, 4 * sizeof(real));
  for (; count > 0; count--) *to++ = *from++;
}

// All columns for pixels [first,last), of taps that lie side by side in lines of three, whose channels are one run each: a third of the
// copies, which with few channels cost more than the sums.
void gather_lines(const Stencil& a, size_t first, size_t last, real* out, int ld) {
  const Tensor& x = a.source;
  int i = int(first / a.w % a.h), j = int(first % a.w), run = 3 * x.c;
  size_t n = first / a.w / a.h;
  for (size_t p = first; p < last; p++, out += ld) {
    int w = j * a.step + a.dw[0];
    for (int line = 0; line < 3; line++) {
      int h = i * a.step + a.dh[3 * line];
      real* to = out + line * run;
      if (unsigned(h) >= unsigned(x.h)) {
        std::fill_n(to, run, real(0));
      } else if (w >= 0 && w + 3 <= x.w) {
        copy(to, x.row((n * x.h + h) * x.w + w), run);
      } else {
        for (int s = 0; s < 3; s++, to += x.c) {
          if (unsigned(w + s) < unsigned(x.w))
            copy(to, x.row((n * x.h + h) * x.w + w + s), x.c);
          else
            std::fill_n(to, x.c, real(0));
        }
      }
    }
    if (++j == a.w) {
      j = 0;
      if (++i == a.h) i = 0, n++;
    }
  }
}

// Columns [c0,c1) of the (tap, channel) axis for pixels [first,last), row by row.
void gather(const Stencil& a, size_t first, size_t last, int c0, int c1, real* out, int ld) {
  const Tensor& x = a.source;
  if (a.in_lines && c0 == 0 && c1 == a.columns()) return gather_lines(a, first, last, out, ld);
  int i = int(first / a.w % a.h), j = int(first % a.w), t0 = c0 / x.c, shift = a.zoom - 1, below = x.h * a.zoom, right = x.w * a.zoom;
  size_t n = first / a.w / a.h;
  for (size_t p = first; p < last; p++, out += ld) {
    int c = c0 - t0 * x.c;
    real* to = out;
    for (int t = t0; to < out + (c1 - c0); t++, c = 0) {
      int count = std::min(x.c - c, int(out + (c1 - c0) - to)), h = i * a.step + a.dh[t], w = j * a.step + a.dw[t];
      if (unsigned(h) < unsigned(below) && unsigned(w) < unsigned(right))
        copy(to, x.row((n * x.h + (h >> shift)) * x.w + (w >> shift)) + c, count);
      else
        std::fill_n(to, count, real(0));
      to += count;
    }
    if (++j == a.w) {
      j = 0;
      if (++i == a.h) i = 0, n++;
    }
  }
}

// Where the product's rows go: pixel (i,j) of the grid is pixel (i·step + h, j·step + w) of y, which becomes product + b + temb + residual.
struct Target {
  Tensor y, b, temb, residual;
  int step = 1, h = 0, w = 0;
};

// y = product + b + temb + residual, of which y may be the last.
void finish(real* y, const real* product, int count, const real* b, const real* temb, const real* residual) {
  if (residual)
    for (int k = 0; k < count; k++) y[k] = product[k] + residual[k];
  else
    copy(y, product, count);
  if (b)
    for (int k = 0; k < count; k++) y[k] += b[k];
  if (temb)
    for (int k = 0; k < count; k++) y[k] += temb[k];
}

void emit(const Stencil& a, const Target& to, size_t first, size_t last, const real* product, int ld) {
  for (size_t p = first; p < last; p++, product += ld) {
    size_t n = p / a.w / a.h, i = p / a.w % a.h, j = p % a.w;
    size_t pixel = (n * to.y.h + i * to.step + to.h) * to.y.w + j * to.step + to.w;
    real* y = to.y.row(pixel);
    finish(y, product, to.y.c, to.b.data, to.temb ? to.temb.row(n) : nullptr, to.residual ? to.residual.row(pixel) : nullptr);
  }
}

int row_stride(int columns) { return round_up(columns, 16) + 16; }  // rows 2^n bytes apart would fall into one set of the L1 cache

// to = gather(a) · b for all pixels, of factors in type `products`. `scratch` holds product_scratch reals.
size_t product_share(int n, int k) { return size_t(kRowsAtOnce) * (row_stride(std::min(k, kGemmDepth)) + row_stride(n)); }
size_t product_scratch(const Context& ctx, int n, int k) { return gemm_packed(n, k) + product_share(n, k) * ctx.threads(); }

void product(Context& ctx, const Stencil& a, MatrixView b, const Target& to, real* scratch, Type products = Type::real) {
  int n = to.y.c, k = a.columns(), ld = row_stride(std::min(k, kGemmDepth)), ldp = row_stride(n);
  Packed packed{scratch, products};
  real* shares = scratch + gemm_packed(n, k);
  parallel_for(ctx, gemm_parts(n, k), [&](size_t begin, size_t end) { gemm_pack(n, k, b, packed, begin, end); });
  size_t rows = a.rows(), threads = ctx.threads();
  parallel_for(ctx, threads, [&](size_t begin, size_t end) {
    for (size_t share = begin; share < end; share++) {
      real* gathered = shares + share * product_share(n, k);
      real* sums = gathered + size_t(kRowsAtOnce) * ld;
      bool in_place = to.step == 1 && !to.temb;  // the product's rows are y's
      size_t past = rows * (share + 1) / threads;
      for (size_t first = rows * share / threads; first < past; first += kRowsAtOnce) {
        size_t last = std::min(past, first + kRowsAtOnce);
        for (int block = 0; block < gemm_blocks(k); block++) {
          gather(a, first, last, gemm_block_begin(k, block), gemm_block_begin(k, block + 1), gathered, ld);
          if (in_place)
            gemm_rows_of_block(int(last - first), n, k, block, {gathered, ld, 1}, packed, to.y.row(first), to.y.ld, to.b.data,
                               to.residual ? to.residual.row(first) : nullptr, to.residual.ld);
          else
            gemm_rows_of_block(int(last - first), n, k, block, {gathered, ld, 1}, packed, sums, ldp, nullptr, nullptr, 0);
        }
        if (!in_place) emit(a, to, first, last, sums, ldp);
      }
    }
  });
}

// dw (K, taps·C) = dyᵀ · gather(x), cut by columns, and by rows too where there are few columns.
size_t weight_gradient_share() { return size_t(kPixelsAtOnce) * row_stride(kColumnsAtOnce) + gemm_scratch(kColumnsAtOnce, kPixelsAtOnce); }
size_t weight_gradient_scratch(const Context& ctx) { return 2 * weight_gradient_share() * ctx.threads(); }

void weight_gradient(Context& ctx, real* dw, Tensor dy, const Stencil& a, real* scratch) {
  int k = dy.c, columns = a.columns(), nr = gemm_microkernels().nr, panels = ceil_div(columns, nr), threads = ctx.threads();
  int row_cuts = std::min(k, panels >= threads ? 1 : ceil_div(threads, panels)), column_cuts = std::min(panels, threads);
  size_t share = weight_gradient_share();
  parallel_for(ctx, size_t(row_cuts) * column_cuts, [&](size_t begin, size_t end) {
    for (size_t task = begin; task < end; task++) {
      real* gathered = scratch + task * share;
      real* packed = gathered + size_t(kPixelsAtOnce) * row_stride(kColumnsAtOnce);
      int i = int(task / column_cuts), j = int(task % column_cuts), k0 = k * i / row_cuts, k1 = k * (i + 1) / row_cuts;
      int past = std::min(columns, panels * (j + 1) / column_cuts * nr);
      for (int c0 = panels * j / column_cuts * nr; c0 < past; c0 += kColumnsAtOnce) {
        int c1 = std::min(past, c0 + kColumnsAtOnce);
        for (size_t p = 0; p < a.rows(); p += kPixelsAtOnce) {
          size_t q = std::min(a.rows(), p + kPixelsAtOnce);
          gather(a, p, q, c0, c1, gathered, row_stride(kColumnsAtOnce));
          gemm(k1 - k0, c1 - c0, int(q - p), {dy.row(p) + k0, 1, dy.ld}, {gathered, row_stride(kColumnsAtOnce), 1},
               dw + size_t(k0) * columns + c0, columns, p > 0, packed);
        }
      }
    }
  });
}

// dtemb = Σ over an image's pixels, db = Σ over images; partial sums of 256 pixels, added in order.
void sums_of(Context& ctx, Tensor dtemb, Tensor db, Tensor dy) {
  int pixels = dy.h * dy.w, cuts = ceil_div(pixels, kRowsOfSum), k = dy.c;
  real* partial = ctx.scratch(size_t(dy.n) * (cuts + 1) * k);
  real* images = partial + size_t(dy.n) * cuts * k;
  parallel_for(ctx, size_t(dy.n) * cuts, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
      int first = int(i % cuts) * kRowsOfSum;
      gemm_microkernels().sum_rows(std::min(kRowsOfSum, pixels - first), k, dy.row(i / cuts * pixels + first), dy.ld, partial + i * k);
    }
  });
  for (int n = 0; n < dy.n; n++) {
    gemm_microkernels().sum_rows(cuts, k, partial + size_t(n) * cuts * k, k, images + size_t(n) * k);
    if (dtemb) std::memcpy(dtemb.row(n), images + size_t(n) * k, k * sizeof(real));
  }
  gemm_microkernels().sum_rows(dy.n, k, images, k, db.data);
}

// What y's pixels see of x: taps in the order of w.
Stencil forward_stencil(const Tensor& y, const Tensor& x, Conv2d a) {
  Stencil s{x, y.h, y.w, a.stride, a.upsample};
  for (int tap = 0; tap < 9; tap++) s.add(tap / 3 - a.pad, tap % 3 - a.pad);
  s.in_lines = x.contiguous() && a.upsample == 1;
  return s;
}

// out (K·taps rows of C), row (tap, k): the sum of w[k][r][s] over the (r,s) that `uses(tap, r, s)`.
template <class Uses>
void mirror(Context& ctx, Tensor w, int taps, real* out, Uses uses) {
  parallel_for(ctx, size_t(taps) * w.n, [&](size_t begin, size_t end) {
    for (size_t row = begin; row < end; row++) {
      int tap = int(row / w.n), k = int(row % w.n);
      real* to = out + row * w.c;
      bool first = true;
      for (int r = 0; r < 3; r++)
        for (int s = 0; s < 3; s++) {
          if (!uses(tap, r, s)) continue;
          const real* from = w.row((size_t(k) * 3 + r) * 3 + s);
          if (first)
            std::memcpy(to, from, w.c * sizeof(real));
          else
            for (int c = 0; c < w.c; c++) to[c] += from[c];
          first = false;
        }
    }
  });
}

// One grid of pixels (i·step + h0, j·step + w0) of dx.
void data_gradient_part(Context& ctx, Grad dx, Tensor w, const Stencil& a, int step, int h0, int w0, const int* tap_r, const int* tap_s,
                        bool enlarged) {
  if (!a.rows()) return;
  Target to{dx.t, {}, {}, dx.accumulate ? dx.t : Tensor{}, step, h0, w0};
  size_t mirrored = size_t(a.columns()) * w.c;
  mirrored = round_up(mirrored, 16);
  real* scratch = ctx.scratch(mirrored + product_scratch(ctx, w.c, a.columns()));
  mirror(ctx, w, a.taps, scratch, [&](int tap, int r, int s) {
    if (!enlarged) return r == tap_r[tap] && s == tap_s[tap];
    // Offset d of dy from 2i is seen by the copies u = 0,1 of pixel i with r = u + 1 - d.
    int u = r + a.dh[tap] - 1, v = s + a.dw[tap] - 1;
    return (u == 0 || u == 1) && (v == 0 || v == 1);
  });
  product(ctx, a, {scratch, w.c, 1}, to, scratch + mirrored);
}

void data_gradient(Context& ctx, Grad dx, Tensor dy, Tensor w, Conv2d a) {
  const Tensor& x = dx.t;
  int tap_r[9], tap_s[9];
  if (a.upsample == 2) {
    Stencil s{dy, x.h, x.w, 2, 1};
    for (int tap = 0; tap < 16; tap++) s.add(tap / 4 - 1, tap % 4 - 1);
    data_gradient_part(ctx, dx, w, s, 1, 0, 0, nullptr, nullptr, true);
    return;
  }
  for (int h0 = 0; h0 < a.stride; h0++)
    for (int w0 = 0; w0 < a.stride; w0++) {
      // x pixel i·stride + h0 is read by y pixel i + (h0 + pad - r) / stride for each r that divides.
      Stencil s{dy, ceil_div(x.h - h0, a.stride), ceil_div(x.w - w0, a.stride), 1, 1};
      for (int r = 0; r < 3; r++)
        for (int t = 0; t < 3; t++) {
          int h = h0 + a.pad - r, v = w0 + a.pad - t;
          if (h % a.stride || v % a.stride) continue;
          tap_r[s.taps] = r, tap_s[s.taps] = t;
          s.add(h / a.stride, v / a.stride);
        }
      data_gradient_part(ctx, dx, w, s, a.stride, h0, w0, tap_r, tap_s, false);
    }
}

// Few output channels (the last convolution: C → 1 or 3): gathering nine times C values for so few sums would cost more than the sums. So
// z (pixels, K·9) = x · wᵀ first, without neighbours; an output is then the sum of nine z of its neighbourhood. In the weight gradient it
// is dy that is gathered, and the product comes out transposed.
void narrow_forward(Context& ctx, Tensor y, Tensor x, Tensor temb, Tensor residual, Tensor w, Tensor b) {
  int n = y.c * 9;
  real* packed = ctx.scratch(gemm_packed(n, x.c) + y.rows() * n);
  real* z = packed + gemm_packed(n, x.c);
  gemm_pack(n, x.c, {w.data, 1, x.c}, packed, 0, gemm_parts(n, x.c));
  parallel_for(ctx, y.rows(), [&](size_t begin, size_t end) {
    gemm_rows(int(end - begin), n, x.c, {x.row(begin), x.ld, 1}, packed, z + begin * n, n, false);
  });
  parallel_for(ctx, size_t(y.n) * y.h, [&](size_t begin, size_t end) {
    for (size_t line = begin; line < end; line++)
      for (int j = 0; j < y.w; j++) {
        int i = int(line % y.h);
        real sums[kNarrow] = {};
        for (int tap = 0; tap < 9; tap++) {
          int h = i + tap / 3 - 1, v = j + tap % 3 - 1;
          if (h < 0 || v < 0 || h >= y.h || v >= y.w) continue;
          const real* from = z + (ptrdiff_t(line - i + h) * y.w + v) * n + tap;
          for (int k = 0; k < y.c; k++) sums[k] += from[k * 9];
        }
        size_t pixel = line * y.w + j;
        finish(y.row(pixel), sums, y.c, b.data, temb ? temb.row(line / y.h) : nullptr, residual ? residual.row(pixel) : nullptr);
      }
  });
}

void narrow_weight_gradient(Context& ctx, Tensor dw, Tensor dy, Tensor x) {
  Stencil s{dy, x.h, x.w, 1, 1};
  for (int tap = 0; tap < 9; tap++) s.add(1 - tap / 3, 1 - tap % 3);
  size_t transposed_size = round_up(size_t(x.c) * s.columns(), 16);
  real* transposed = ctx.scratch(transposed_size + weight_gradient_scratch(ctx));
  weight_gradient(ctx, transposed, x, s, transposed + transposed_size);
  for (int k = 0; k < dy.c; k++)
    for (int tap = 0; tap < 9; tap++)
      for (int c = 0; c < x.c; c++) dw.data[(size_t(k) * 9 + tap) * x.c + c] = transposed[size_t(c) * s.columns() + tap * dy.c + k];
}

// Which way a shape goes, as measured on one Zen 4 core (GFLOP/s of the plain sum, forward, direct → Winograd). 16 to 16 channels: 45 →
// 107, 8 to 16: 30 → 22. 512 to 256 channels on 1 tile: 52 → 31, on 4 tiles: 79 → 149 (transforming the filters costs as much as a few
// tiles); the batch does not count all the same: an image must not depend on how many are computed with it.
bool is_plain(Conv2d a) { return a.stride == 1 && a.pad == 1; }
bool use_winograd(const Tensor& y, const Tensor& x, Conv2d a) { return is_plain(a) && x.c >= 16 && y.c >= 16; }
bool use_narrow(const Tensor& y, const Tensor& x, Conv2d a) { return is_plain(a) && a.upsample == 1 && y.c <= kNarrow && x.c >= 4 * y.c; }

}  // namespace

void conv2d_forward(Context& ctx, Tensor y, Tensor x, Tensor temb, Tensor residual, Shortcut shortcut, Tensor w, Tensor b, Conv2d a) {
  shapes::conv2d_forward(y, x, temb, residual, shortcut, w, b, a);
  if (shortcut.x0) {
    linear_forward(ctx, y, shortcut.x0, shortcut.x1, residual, shortcut.w, shortcut.b);
    residual = y;
  }
  if (use_winograd(y, x, a)) return winograd_forward(ctx, y, x, temb, residual, w, b, a.upsample);
  if (use_narrow(y, x, a)) return narrow_forward(ctx, y, x, temb, residual, w, b);
  Stencil s = forward_stencil(y, x, a);
  product(ctx, s, {w.data, 1, s.columns()}, {y, b, temb, residual}, ctx.scratch(product_scratch(ctx, y.c, s.columns())),
          a.stride == 2 ? ctx.products() : Type::real);
}

void conv2d_backward(Context& ctx, Grad dx, Tensor dtemb, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Conv2d a) {
  shapes::conv2d_backward(dx, dtemb, dw, db, dy, x, w, a);
  bool winograd = use_winograd(dy, x, a);
  if (dx) winograd ? winograd_data_gradient(ctx, dx, dy, w, a.upsample) : data_gradient(ctx, dx, dy, w, a);
  if (winograd)
    winograd_weight_gradient(ctx, dw, dy, x, a.upsample);
  else if (use_narrow(dy, x, a))
    narrow_weight_gradient(ctx, dw, dy, x);
  else
    weight_gradient(ctx, dw.data, dy, forward_stencil(dy, x, a), ctx.scratch(weight_gradient_scratch(ctx)));
  sums_of(ctx, dtemb, db, dy);
}

}  // namespace phx
