// The transforms of F(4x4,3x3), vector by vector of channels.  Lavin & Gray 2016, §4; Toom-Cook with the points 0, ±5/8, ±3/2, ∞: their
// powers are exact in binary, and the error is 2.2 times smaller than with 0, ±1, ±2, ∞ (1.0e-6 against 2.2e-6 relative L2, 128 channels).
// For points 0, ±a, ±b, ∞:  rows of Bᵀ are the coefficients of Π (x - q) over the other points q, rows of G (1, p, p²) / Π (p - q),
// rows of Aᵀ the powers p⁰ … p³.
#include "vec.h"
#include "winograd_leaves.h"

namespace phx {
namespace PHOENIX_ISA {
namespace {

constexpr float a1 = 0.625f, a2 = a1 * a1, a3 = a2 * a1;
constexpr float b1 = 1.5f, b2 = b1 * b1, b3 = b2 * b1;
constexpr float kSum = a2 + b2, kProduct = a2 * b2;
constexpr float ga = float(1 / (2.0 * a2 * (double(a2) - b2))), gb = float(1 / (2.0 * b2 * (double(b2) - a2))),
                g0 = float(1 / (double(a2) * b2));
constexpr int kPanel = 2 * kLanes;

// Each of these works on values `s` apart.
PHX_INLINE void input_line(Vec* d, int s) {  // 6 → 6
  Vec x0 = d[0], x1 = d[s], x2 = d[2 * s], x3 = d[3 * s], x4 = d[4 * s], x5 = d[5 * s];
  Vec u = x4 - b2 * x2, v = x3 - b2 * x1, w = x4 - a2 * x2, z = x3 - a2 * x1;
  d[0] = x4 - kSum * x2 + kProduct * x0;
  d[s] = u + a1 * v, d[2 * s] = u - a1 * v;
  d[3 * s] = w + b1 * z, d[4 * s] = w - b1 * z;
  d[5 * s] = x5 - kSum * x3 + kProduct * x1;
}
PHX_INLINE void output_line(Vec* m, int s) {  // 6 → 4
  Vec p = m[s] + m[2 * s], q = m[s] - m[2 * s], r = m[3 * s] + m[4 * s], t = m[3 * s] - m[4 * s], last = m[5 * s];
  m[0] = m[0] + p + r;
  m[s] = b1 * t + a1 * q;
  m[2 * s] = b2 * r + a2 * p;
  m[3 * s] = b3 * t + (a3 * q + last);
}
PHX_INLINE void gradient_line(Vec* y, int s) {  // 4 → 6
  Vec y0 = y[0], y1 = y[s], y2 = y[2 * s], y3 = y[3 * s];
  Vec p = a2 * y2 + y0, q = a1 * y1 + a3 * y3, r = b2 * y2 + y0, t = b1 * y1 + b3 * y3;
  y[s] = p + q, y[2 * s] = p - q, y[3 * s] = r + t, y[4 * s] = r - t, y[5 * s] = y3;
}
PHX_INLINE void filter_line(Vec* g, int s) {  // 3 → 6
  Vec x0 = g[0], x1 = g[s], x2 = g[2 * s];
  Vec p = (x0 + a2 * x2) * ga, q = x1 * (a1 * ga), r = (x0 + b2 * x2) * gb, t = x1 * (b1 * gb);
  g[0] = x0 * g0, g[s] = p + q, g[2 * s] = p - q, g[3 * s] = r + t, g[4 * s] = r - t, g[5 * s] = x2;
}
PHX_INLINE void filter_gradient_line(Vec* u, int s) {  // 6 → 3
  Vec p = (u[s] + u[2 * s]) * ga, q = (u[s] - u[2 * s]) * ga, r = (u[3 * s] + u[4 * s]) * gb, t = (u[3 * s] - u[4 * s]) * gb;
  u[0] = u[0] * g0 + p + r;
  u[s] = a1 * q + b1 * t;
  u[2 * s] = a2 * p + b2 * r + u[5 * s];
}

// The first `count` floats of a vector.
PHX_INLINE Vec load_part(const float* p, int count) {
  float t[kLanes] = {};
  for (int i = 0; i < count; i++) t[i] = p[i];
  return load(t);
}
PHX_INLINE void store_part(float* p, Vec v, int count) {
  float t[kLanes];
  store(t, v);
  for (int i = 0; i < count; i++) p[i] = t[i];
}
template <bool Whole>
PHX_INLINE Vec get(const float* p, int count) {
  return Whole ? load(p) : load_part(p, count);
}
template <bool Whole>
PHX_INLINE void put(float* p, Vec v, int count) {
  Whole ? store(p, v) : store_part(p, v, count);
}

template <bool Whole>
PHX_INLINE void input_vector(int at, int count, const float* const* pixels, float* v, ptrdiff_t stride) {
  Vec d[36];
#pragma GCC unroll 6
  for (int r = 0; r < 6; r++) {
#pragma GCC unroll 6
    for (int s = 0; s < 6; s++) d[r * 6 + s] = get<Whole>(pixels[r * 6 + s] + at, count);
    input_line(d + r * 6, 1);
  }
#pragma GCC unroll 6
  for (int s = 0; s < 6; s++) {
    input_line(d + s, 6);
#pragma GCC unroll 6
    for (int r = 0; r < 6; r++) store(v + (r * 6 + s) * stride, d[r * 6 + s]);
  }
}
void input(int c, const float* const* pixels, float* v, ptrdiff_t stride, ptrdiff_t panel) {
  int i = 0;
  for (; i + kLanes <= c; i += kLanes) input_vector<true>(i, kLanes, pixels, v + i / kPanel * panel + i % kPanel, stride);
  if (i < c) input_vector<false>(i, c - i, pixels, v + i / kPanel * panel + i % kPanel, stride);
}

// Aᵀ m A of one vector of channels into d[6·i + j], i, j < 4.
PHX_INLINE void output_tile(const float* m, ptrdiff_t stride, Vec* d) {
#pragma GCC unroll 6
  for (int s = 0; s < 6; s++) {
#pragma GCC unroll 6
    for (int r = 0; r < 6; r++) d[r * 6 + s] = load(m + (r * 6 + s) * stride);
    output_line(d + s, 6);
  }
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) output_line(d + r * 6, 1);
}
template <bool Whole>
PHX_INLINE void output_vector(int at, int count, const float* m, ptrdiff_t stride, const float* bias, const float* temb,
                              const float* const* residual, float* const* y) {
  Vec d[36], offset{};
  output_tile(m + at, stride, d);
  if (bias) offset = get<Whole>(bias + at, count);
  if (temb) offset += get<Whole>(temb + at, count);
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++)
#pragma GCC unroll 4
    for (int s = 0; s < 4; s++) {
      int pixel = r * 4 + s;
      if (!y[pixel]) continue;
      Vec sum = d[r * 6 + s] + offset;
      if (residual) sum += get<Whole>(residual[pixel] + at, count);
      put<Whole>(y[pixel] + at, sum, count);
    }
}
void output(int k, const float* m, ptrdiff_t stride, const float* bias, const float* temb, const float* const* residual, float* const* y) {
  int i = 0;
  for (; i + kLanes <= k; i += kLanes) output_vector<true>(i, kLanes, m, stride, bias, temb, residual, y);
  if (i < k) output_vector<false>(i, k - i, m, stride, bias, temb, residual, y);
}

template <bool Whole>
PHX_INLINE void pooled_vector(int at, int count, const float* m, ptrdiff_t stride, const float* const* residual, float* const* y) {
  Vec d[36];
  output_tile(m + at, stride, d);
#pragma GCC unroll 2
  for (int r = 0; r < 2; r++)
#pragma GCC unroll 2
    for (int s = 0; s < 2; s++) {
      if (!y[r * 2 + s]) continue;
      const Vec* from = d + r * 12 + s * 2;
      Vec sum = (from[0] + from[1]) + (from[6] + from[7]);
      if (residual) sum += get<Whole>(residual[r * 2 + s] + at, count);
      put<Whole>(y[r * 2 + s] + at, sum, count);
    }
}
void pooled_output(int k, const float* m, ptrdiff_t stride, const float* const* residual, float* const* y) {
  int i = 0;
  for (; i + kLanes <= k; i += kLanes) pooled_vector<true>(i, kLanes, m, stride, residual, y);
  if (i < k) pooled_vector<false>(i, k - i, m, stride, residual, y);
}

template <bool Whole>
PHX_INLINE void gradient_vector(int at, int count, const float* const* pixels, float* m, ptrdiff_t stride) {
  Vec d[36];
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) {
#pragma GCC unroll 4
    for (int s = 0; s < 4; s++) d[r * 6 + s] = get<Whole>(pixels[r * 4 + s] + at, count);
    gradient_line(d + r * 6, 1);
  }
#pragma GCC unroll 6
  for (int s = 0; s < 6; s++) {
    gradient_line(d + s, 6);
#pragma GCC unroll 6
    for (int r = 0; r < 6; r++) store(m + (r * 6 + s) * stride + at, d[r * 6 + s]);
  }
}
void gradient(int k, const float* const* pixels, float* m, ptrdiff_t stride) {
  int i = 0;
  for (; i + kLanes <= k; i += kLanes) gradient_vector<true>(i, kLanes, pixels, m, stride);
  if (i < k) gradient_vector<false>(i, k - i, pixels, m, stride);
}

void filter(int count, const float* taps, ptrdiff_t tap_stride, float* u, ptrdiff_t stride) {
  for (int i = 0; i < count * kPanel; i += kLanes) {
    Vec g[36];
#pragma GCC unroll 3
    for (int r = 0; r < 3; r++) {
#pragma GCC unroll 3
      for (int s = 0; s < 3; s++) g[r * 6 + s] = load(taps + (r * 3 + s) * tap_stride + i);
      filter_line(g + r * 6, 1);
    }
#pragma GCC unroll 6
    for (int s = 0; s < 6; s++) {
      filter_line(g + s, 6);
#pragma GCC unroll 6
      for (int r = 0; r < 6; r++) store(u + (r * 6 + s) * stride + i, g[r * 6 + s]);
    }
  }
}

template <bool Whole>
PHX_INLINE void filter_gradient_vector(int at, int count, const float* du, ptrdiff_t stride, float* dw, ptrdiff_t tap_stride) {
  Vec g[36];
#pragma GCC unroll 6
  for (int s = 0; s < 6; s++) {
#pragma GCC unroll 6
    for (int r = 0; r < 6; r++) g[r * 6 + s] = load(du + (r * 6 + s) * stride + at);
    filter_gradient_line(g + s, 6);
  }
#pragma GCC unroll 3
  for (int r = 0; r < 3; r++) {
    filter_gradient_line(g + r * 6, 1);
#pragma GCC unroll 3
    for (int s = 0; s < 3; s++) put<Whole>(dw + (r * 3 + s) * tap_stride + at, g[r * 6 + s], count);
  }
}
void filter_gradient(int c, const float* du, ptrdiff_t stride, float* dw, ptrdiff_t tap_stride) {
  int i = 0;
  for (; i + kLanes <= c; i += kLanes) filter_gradient_vector<true>(i, kLanes, du, stride, dw, tap_stride);
  if (i < c) filter_gradient_vector<false>(i, c - i, du, stride, dw, tap_stride);
}

}  // namespace

extern const WinogradLeaves winograd_leaves_table;
const WinogradLeaves winograd_leaves_table = {input, output, pooled_output, gradient, filter, filter_gradient};

}  // namespace PHOENIX_ISA
}  // namespace phx
