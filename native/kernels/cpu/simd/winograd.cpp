// The transforms of Winograd's convolution, vector by vector of channels. Each algorithm below is one for lines; in two dimensions its
// lines run over the rows, then over the columns.
#include "kernels/cpu/simd/winograd.h"
#include "kernels/cpu/simd/vec.h"

namespace phx {
namespace PHOENIX_ISA {
namespace {

constexpr int kPanel = 2 * kLanes;

// All lines work in place, on values `s` apart.

// F(4,3).  Lavin & Gray 2016, §4; Toom-Cook with the points 0, ±5/8, ±3/2, ∞: their powers are exact in binary, and the error is 2.2 times
// smaller than with 0, ±1, ±2, ∞ (1.0e-6 against 2.2e-6 relative L2, 128 channels).
// For points 0, ±a, ±b, ∞:  rows of Bᵀ are the coefficients of Π (x - q) over the other points q, rows of G (1, p, p²) / Π (p - q),
// rows of Aᵀ the powers p⁰ … p³.
struct Plain {
  static constexpr int window = 6, outputs = 4, v_side = 6, u_side = 6, m_side = 6;
  static constexpr int v_of[] = {0, 1, 2, 3, 4, 5}, u_of[] = {0, 1, 2, 3, 4, 5};
  static constexpr float a1 = 0.625f, a2 = a1 * a1, a3 = a2 * a1;
  static constexpr float b1 = 1.5f, b2 = b1 * b1, b3 = b2 * b1;
  static constexpr float sum = a2 + b2, product = a2 * b2;
  static constexpr float ga = float(1 / (2.0 * a2 * (double(a2) - b2))), gb = float(1 / (2.0 * b2 * (double(b2) - a2))),
                         g0 = float(1 / (double(a2) * b2));
  PHX_INLINE void input(Vec* d, int s) {
    Vec x0 = d[0], x1 = d[s], x2 = d[2 * s], x3 = d[3 * s], x4 = d[4 * s], x5 = d[5 * s];
    Vec p = x4 - b2 * x2, q = x3 - b2 * x1, r = x4 - a2 * x2, t = x3 - a2 * x1;
    d[0] = x4 - sum * x2 + product * x0;
    d[s] = p + a1 * q, d[2 * s] = p - a1 * q;
    d[3 * s] = r + b1 * t, d[4 * s] = r - b1 * t;
    d[5 * s] = x5 - sum * x3 + product * x1;
  }
  PHX_INLINE void output(Vec* m, int s) {
    Vec p = m[s] + m[2 * s], q = m[s] - m[2 * s], r = m[3 * s] + m[4 * s], t = m[3 * s] - m[4 * s], last = m[5 * s];
    m[0] = m[0] + p + r;
    m[s] = b1 * t + a1 * q;
    m[2 * s] = b2 * r + a2 * p;
    m[3 * s] = b3 * t + (a3 * q + last);
  }
  PHX_INLINE void gradient(Vec* y, int s) {
    Vec y0 = y[0], y1 = y[s], y2 = y[2 * s], y3 = y[3 * s];
    Vec p = a2 * y2 + y0, q = a1 * y1 + a3 * y3, r = b2 * y2 + y0, t = b1 * y1 + b3 * y3;
    y[s] = p + q, y[2 * s] = p - q, y[3 * s] = r + t, y[4 * s] = r - t, y[5 * s] = y3;
  }
  PHX_INLINE void filter(Vec* g, int s) {
    Vec x0 = g[0], x1 = g[s], x2 = g[2 * s];
    Vec p = (x0 + a2 * x2) * ga, q = x1 * (a1 * ga), r = (x0 + b2 * x2) * gb, t = x1 * (b1 * gb);
    g[0] = x0 * g0, g[s] = p + q, g[2 * s] = p - q, g[3 * s] = r + t, g[4 * s] = r - t, g[5 * s] = x2;
  }
  PHX_INLINE void filter_gradient(Vec* u, int s) {
    Vec p = (u[s] + u[2 * s]) * ga, q = (u[s] - u[2 * s]) * ga, r = (u[3 * s] + u[4 * s]) * gb, t = (u[3 * s] - u[4 * s]) * gb;
    u[0] = u[0] * g0 + p + r;
    u[s] = a1 * q + b1 * t;
    u[2 * s] = a2 * p + b2 * r + u[5 * s];
  }
};

// Four outputs over two enlarged pixels, x1 and x2 of x0 … x3:
//   y0 = w0 x0 + (w1 + w2) x1   y1 = (w0 + w1) x1 + w2 x2   y2 = w0 x1 + (w1 + w2) x2   y3 = (w0 + w1) x2 + w2 x3
// With h = (w0 + w1 + w2)/2, common to the even and the odd ones, five products of four sums of pixels:
//   m = (w0·(x0 - x2), h·(x1 + x2), (w0 - h)·(x1 - x2), (h - w2)·(x1 - x2), w2·(x3 - x1))
//   y = (m0 + m1 - m2, m1 + m3, m1 + m2, m4 + m1 - m3)
struct Upsampled {
  static constexpr int window = 4, outputs = 4, v_side = 4, u_side = 5, m_side = 5;
  static constexpr int v_of[] = {0, 1, 2, 2, 3}, u_of[] = {0, 1, 2, 3, 4};
  PHX_INLINE void input(Vec* d, int s) {
    Vec x0 = d[0], x1 = d[s], x2 = d[2 * s], x3 = d[3 * s];
    d[0] = x0 - x2, d[s] = x1 + x2, d[2 * s] = x1 - x2, d[3 * s] = x3 - x1;
  }
  PHX_INLINE void output(Vec* m, int s) {
    Vec m0 = m[0], m1 = m[s], m2 = m[2 * s], m3 = m[3 * s], m4 = m[4 * s];
    m[0] = m0 + (m1 - m2), m[s] = m1 + m3, m[2 * s] = m1 + m2, m[3 * s] = m4 + (m1 - m3);
  }
  PHX_INLINE void gradient(Vec* y, int s) {
    Vec y0 = y[0], y1 = y[s], y2 = y[2 * s], y3 = y[3 * s];
    y[s] = (y0 + y1) + (y2 + y3), y[2 * s] = y2 - y0, y[3 * s] = y1 - y3, y[4 * s] = y3;
  }
  PHX_INLINE void filter(Vec* g, int s) {
    Vec w0 = g[0], w1 = g[s], w2 = g[2 * s], h = (w0 + w1 + w2) * 0.5f;
    g[s] = h, g[2 * s] = w0 - h, g[3 * s] = h - w2, g[4 * s] = w2;
  }
  PHX_INLINE void filter_gradient(Vec* u, int s) {
    Vec u2 = u[2 * s], u3 = u[3 * s], h = (u[s] - u2 + u3) * 0.5f;
    u[0] = u[0] + u2 + h, u[s] = h, u[2 * s] = u[4 * s] - u3 + h;
  }
};

// The data gradient of that: a pixel is seen by both its copies, so with the sums s of neighbours of dy, s0 = dy0 + dy1 … s4 = dy4 + dy5,
// and g the mirrored filter
//   dx0 = g0 s0 + g1 s1 + g2 s2        dx1 = g0 s2 + g1 s3 + g2 s4
// and five products:
//   m = (g0·(s0 - s2), g1·s1, (g0 + g2)·s2, g1·s3, g2·(s4 - s2))        dx = (m0 + m1 + m2, m2 + m3 + m4)
struct UpsampledGradient {
  static constexpr int window = 6, outputs = 2, v_side = 5, u_side = 4, m_side = 5;
  static constexpr int v_of[] = {0, 1, 2, 3, 4}, u_of[] = {0, 1, 2, 1, 3};
  PHX_INLINE void input(Vec* d, int s) {
    Vec s0 = d[0] + d[s], s1 = d[s] + d[2 * s], s2 = d[2 * s] + d[3 * s], s3 = d[3 * s] + d[4 * s], s4 = d[4 * s] + d[5 * s];
    d[0] = s0 - s2, d[s] = s1, d[2 * s] = s2, d[3 * s] = s3, d[4 * s] = s4 - s2;
  }
  PHX_INLINE void output(Vec* m, int s) {
    Vec m2 = m[2 * s];
    m[0] = m[0] + m[s] + m2, m[s] = m2 + m[3 * s] + m[4 * s];
  }
  PHX_INLINE void filter(Vec* g, int s) {
    Vec g2 = g[2 * s];
    g[2 * s] = g[0] + g2, g[3 * s] = g2;
  }
};

template <bool Whole>
PHX_INLINE Vec get(const float* p, int count) {
  return Whole ? load(p) : load_some(p, count);
}
template <bool Whole>
PHX_INLINE void put(float* p, Vec v, int count) {
  Whole ? store(p, v) : store_some(p, v, count);
}

constexpr int larger(int a, int b) { return a > b ? a : b; }

template <class A, bool Whole>
PHX_INLINE void input_vector(int at, int count, const float* const* pixels, float* v, ptrdiff_t stride) {
  constexpr int n = larger(A::window, A::v_side);
  Vec d[n * n];
#pragma GCC unroll 6
  for (int r = 0; r < A::window; r++) {
#pragma GCC unroll 6
    for (int s = 0; s < A::window; s++) d[r * n + s] = get<Whole>(pixels[r * A::window + s] + at, count);
    A::input(d + r * n, 1);
  }
#pragma GCC unroll 6
  for (int s = 0; s < A::v_side; s++) {
    A::input(d + s, n);
#pragma GCC unroll 6
    for (int r = 0; r < A::v_side; r++) store(v + (r * A::v_side + s) * stride, d[r * n + s]);
  }
}
template <class A>
void input(int c, const float* const* pixels, float* v, ptrdiff_t stride, ptrdiff_t panel) {
  int i = 0;
  for (; i + kLanes <= c; i += kLanes) input_vector<A, true>(i, kLanes, pixels, v + i / kPanel * panel + i % kPanel, stride);
  if (i < c) input_vector<A, false>(i, c - i, pixels, v + i / kPanel * panel + i % kPanel, stride);
}

template <class A, bool Whole>
PHX_INLINE void output_vector(int at, int count, const float* m, ptrdiff_t stride, const float* bias, const float* temb,
                              const float* const* residual, float* const* y) {
  Vec d[A::m_side * A::m_side], offset{};
#pragma GCC unroll 6
  for (int s = 0; s < A::m_side; s++) {
#pragma GCC unroll 6
    for (int r = 0; r < A::m_side; r++) d[r * A::m_side + s] = load(m + at + (r * A::m_side + s) * stride);
    A::output(d + s, A::m_side);
  }
  if (bias) offset = get<Whole>(bias + at, count);
  if (temb) offset += get<Whole>(temb + at, count);
#pragma GCC unroll 4
  for (int r = 0; r < A::outputs; r++) {
    A::output(d + r * A::m_side, 1);
#pragma GCC unroll 4
    for (int s = 0; s < A::outputs; s++) {
      int pixel = r * A::outputs + s;
      if (!y[pixel]) continue;
      Vec sum = d[r * A::m_side + s] + offset;
      if (residual) sum += get<Whole>(residual[pixel] + at, count);
      put<Whole>(y[pixel] + at, sum, count);
    }
  }
}
template <class A>
void output(int k, const float* m, ptrdiff_t stride, const float* bias, const float* temb, const float* const* residual, float* const* y) {
  int i = 0;
  for (; i + kLanes <= k; i += kLanes) output_vector<A, true>(i, kLanes, m, stride, bias, temb, residual, y);
  if (i < k) output_vector<A, false>(i, k - i, m, stride, bias, temb, residual, y);
}

template <class A, bool Whole>
PHX_INLINE void gradient_vector(int at, int count, const float* const* pixels, float* m, ptrdiff_t stride) {
  Vec d[A::m_side * A::m_side];
#pragma GCC unroll 4
  for (int r = 0; r < A::outputs; r++) {
#pragma GCC unroll 4
    for (int s = 0; s < A::outputs; s++) d[r * A::m_side + s] = get<Whole>(pixels[r * A::outputs + s] + at, count);
    A::gradient(d + r * A::m_side, 1);
  }
#pragma GCC unroll 6
  for (int s = 0; s < A::m_side; s++) {
    A::gradient(d + s, A::m_side);
#pragma GCC unroll 6
    for (int r = 0; r < A::m_side; r++) store(m + (r * A::m_side + s) * stride + at, d[r * A::m_side + s]);
  }
}
template <class A>
void gradient(int k, const float* const* pixels, float* m, ptrdiff_t stride) {
  int i = 0;
  for (; i + kLanes <= k; i += kLanes) gradient_vector<A, true>(i, kLanes, pixels, m, stride);
  if (i < k) gradient_vector<A, false>(i, k - i, pixels, m, stride);
}

template <class A>
void filter(int count, const float* taps, ptrdiff_t tap_stride, float* u, ptrdiff_t stride) {
  for (int i = 0; i < count * kPanel; i += kLanes) {
    Vec g[A::u_side * A::u_side];
#pragma GCC unroll 3
    for (int r = 0; r < 3; r++) {
#pragma GCC unroll 3
      for (int s = 0; s < 3; s++) g[r * A::u_side + s] = load(taps + (r * 3 + s) * tap_stride + i);
      A::filter(g + r * A::u_side, 1);
    }
#pragma GCC unroll 6
    for (int s = 0; s < A::u_side; s++) {
      A::filter(g + s, A::u_side);
#pragma GCC unroll 6
      for (int r = 0; r < A::u_side; r++) store(u + (r * A::u_side + s) * stride + i, g[r * A::u_side + s]);
    }
  }
}

template <class A, bool Whole>
PHX_INLINE void filter_gradient_vector(int at, int count, const float* du, ptrdiff_t stride, float* dw, ptrdiff_t tap_stride) {
  Vec g[A::u_side * A::u_side];
#pragma GCC unroll 6
  for (int s = 0; s < A::u_side; s++) {
#pragma GCC unroll 6
    for (int r = 0; r < A::u_side; r++) g[r * A::u_side + s] = load(du + (r * A::u_side + s) * stride + at);
    A::filter_gradient(g + s, A::u_side);
  }
#pragma GCC unroll 3
  for (int r = 0; r < 3; r++) {
    A::filter_gradient(g + r * A::u_side, 1);
#pragma GCC unroll 3
    for (int s = 0; s < 3; s++) put<Whole>(dw + (r * 3 + s) * tap_stride + at, g[r * A::u_side + s], count);
  }
}
template <class A>
void filter_gradient(int c, const float* du, ptrdiff_t stride, float* dw, ptrdiff_t tap_stride) {
  int i = 0;
  for (; i + kLanes <= c; i += kLanes) filter_gradient_vector<A, true>(i, kLanes, du, stride, dw, tap_stride);
  if (i < c) filter_gradient_vector<A, false>(i, c - i, du, stride, dw, tap_stride);
}

template <class A>
concept HasGradient = requires(Vec* d) {
  A::gradient(d, 1);
};

template <class A>
constexpr WinogradTransforms transforms() {
  WinogradTransforms t = {A::window, A::outputs, A::v_side, A::u_side, A::m_side, A::v_of, A::u_of, input<A>, output<A>, filter<A>};
  if constexpr (HasGradient<A>) t.gradient = gradient<A>, t.filter_gradient = filter_gradient<A>;
  return t;
}

}  // namespace

extern const WinogradMicrokernels winograd_microkernels_table;
const WinogradMicrokernels winograd_microkernels_table = {transforms<Plain>(), transforms<Upsampled>(), transforms<UpsampledGradient>()};

}  // namespace PHOENIX_ISA
}  // namespace phx
