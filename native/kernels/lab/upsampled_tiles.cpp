// Race: a 3x3 convolution of a map enlarged twofold (nearest), by tiles of m x m pixels of the small map, against F(4x4,3x3) on the large one.
// Along a line, outputs 2i and 2i+1 are sums of two small pixels each:
//   y[2i] = w0 x[i-1] + (w1 + w2) x[i]        y[2i+1] = (w0 + w1) x[i] + w2 x[i+1]
// As filters of three taps over one window x[i-1 .. i+m], (w0, w1+w2, 0) and (0, w0+w1, w2), both go through F(m,3) and its m+2 points: the odd
// one has no product at 0, the even one none at ∞, and at 1 both have the same, for both add up to w0+w1+w2. So 2m outputs take 2m+1 products,
// and pairs of these read the same transformed pixel; in two dimensions all is squared.
//
//   F="-std=c++20 -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast -I native -DPHOENIX_BACKEND=\"cpu\""
//   K=native/kernels; V="-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mprefer-vector-width=512"
//   for isa in portable avx2 avx512; do
//     case $isa in portable) o=;; avx2) o="-mavx2 -mfma";; avx512) o=$V;; esac
//     g++ $F $o -DPHOENIX_ISA=$isa -c $K/cpu/simd/gemm.cpp -o gemm.$isa.o
//   done
//   g++ $F $V -DPHOENIX_ISA=avx512 $K/lab/upsampled_tiles.cpp $K/isa.cpp gemm.*.o -o upsampled_tiles && ./upsampled_tiles
//
// One Zen 4 core, forward, GFLOP/s of the direct formula with the best length of blocks, in brackets the relative L2 error:
//                                          F(4x4,3x3)       m = 2          m = 3          m = 4
//   multiplications per output                2.25           1.56           1.36           1.27
//   frequencies of pixels, of products       36, 36         16, 25         25, 49         36, 81
//   7 -> 14, 64 channels, batch 32           254 (7.7e-7)   383 (2.1e-7)   333 (6.4e-7)   390 (7.6e-7)
//   14 -> 28, 64 channels, batch 32          304 (7.4e-7)   465 (2.0e-7)   416 (6.2e-7)   371 (7.4e-7)
//   4 -> 8, 256 channels, batch 8            229 (1.3e-6)   421 (4.0e-7)   171 (1.4e-6)   143 (1.7e-6)
//   8 -> 16, 256 channels, batch 8           329 (1.5e-6)   521 (3.9e-7)   372 (1.2e-6)   340 (1.7e-6)
//   16 -> 32, 256 channels, batch 8          339 (1.4e-6)   548 (4.0e-7)   423 (1.4e-6)   453 (1.6e-6)
// m = 2 is taken (cpu/simd/winograd.cpp, docs/decisions.md): with larger tiles filters of 49 and 81 frequencies (21 MB at 256 -> 256) stream past
// and more outputs lie outside the map; they save too few products for that. Never linked.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/cpu/simd/gemm.h"
#include "kernels/cpu/simd/vec.h"

namespace {

using phx::PHOENIX_ISA::kLanes;
using phx::PHOENIX_ISA::load;
using phx::PHOENIX_ISA::store;
using phx::PHOENIX_ISA::Vec;

template <int rows, int columns>
struct Matrix {
  double at[rows][columns] = {};
};

// F(n-2,3) on n points, the last of which is ∞: Bᵀ, G, Aᵀ.
template <int n>
struct ToomCook {
  Matrix<n, n> b;
  Matrix<n, 3> g;
  Matrix<n - 2, n> a;
};
constexpr double power(double x, int n) { return n ? x * power(x, n - 1) : 1; }
template <int n>
constexpr ToomCook<n> toom_cook(const double* points) {  // the finite ones
  ToomCook<n> t;
  for (int p = 0; p < n; p++) {
    t.b.at[p][0] = 1;
    for (int q = 0, degree = 0; q < n - 1; q++) {
      if (q == p) continue;
      for (int i = ++degree; i >= 0; i--) t.b.at[p][i] = (i ? t.b.at[p][i - 1] : 0) - points[q] * t.b.at[p][i];
    }
    if (p == n - 1) break;
    double product = 1;
    for (int q = 0; q < n - 1; q++)
      if (q != p) product *= points[p] - points[q];
    for (int i = 0; i < 3; i++) t.g.at[p][i] = power(points[p], i) / product;
    for (int i = 0; i < n - 2; i++) t.a.at[i][p] = power(points[p], i);
  }
  t.g.at[n - 1][2] = 1;
  t.a.at[n - 3][n - 1] = 1;
  return t;
}

// Along a line `window` pixels of the map become `points`, and `products`, each of the pixel `point_of` it, become `outputs`.
struct Enlarged {  // F(4,3): the window is one of the large map
  static constexpr int window = 6, points = 6, products = 6, outputs = 4, zoom = 2;
  static constexpr double at[] = {0, 0.625, -0.625, 1.5, -1.5};
  static constexpr ToomCook<6> t = toom_cook<6>(at);
  static constexpr auto b = t.b;
  static constexpr auto g = t.g;
  static constexpr auto a = t.a;
  static constexpr int point_of(int e) { return e; }
};

constexpr double points_of_small_tiles[][5] = {{0, 1, -1}, {0, 1, -1, 0.5}, {0, 1, -1, 0.5, -2}};
template <int m>
struct Small {
  static constexpr int window = m + 2, points = m + 2, products = 2 * m + 1, outputs = 2 * m, zoom = 1;
  static constexpr ToomCook<points> t = toom_cook<points>(points_of_small_tiles[m - 2]);
  // Products: even at 0, both at 1, then even and odd at each of the other points, odd at ∞.
  static constexpr int point_of(int e) { return e < 2 ? e : e / 2 + 1; }
  static constexpr bool takes_part(int e, int phase) { return e == 1 || phase == (e == products - 1 ? 1 : e % 2); }
  static constexpr auto b = t.b;
  static constexpr auto g = [] {
    Matrix<products, 3> g;
    for (int e = 0; e < products; e++) {
      const double* of = t.g.at[point_of(e)];
      for (int i = 0; i < 3; i++) g.at[e][i] = takes_part(e, 0) ? of[i > 0] : of[1 + (i > 1)];
    }
    return g;
  }();
  static constexpr auto a = [] {
    Matrix<outputs, products> a;
    for (int e = 0; e < products; e++)
      for (int i = 0; i < outputs; i++) a.at[i][e] = takes_part(e, i % 2) ? t.a.at[i / 2][point_of(e)] : 0;
    return a;
  }();
};

template <const auto& matrix, int i, int j>
PHX_INLINE void add(Vec& sum, const Vec* in, ptrdiff_t step) {
  constexpr float factor = float(matrix.at[i][j]);
  if constexpr (factor == 1)
    sum += in[j * step];
  else if constexpr (factor == -1)
    sum -= in[j * step];
  else if constexpr (factor != 0)
    sum += factor * in[j * step];
}
template <const auto& matrix, int i, int... j>
PHX_INLINE Vec row(const Vec* in, ptrdiff_t step, std::integer_sequence<int, j...>) {
  Vec sum{};
  (add<matrix, i, j>(sum, in, step), ...);
  return sum;
}
template <const auto& matrix, int columns, int... i>
PHX_INLINE void line(const Vec* in, ptrdiff_t step, Vec* out, ptrdiff_t out_step, std::integer_sequence<int, i...>) {
  ((out[i * out_step] = row<matrix, i>(in, step, std::make_integer_sequence<int, columns>())), ...);
}
// out (R,R) = matrix · in (C,C) · matrixᵀ
template <const auto& matrix, int R, int C>
PHX_INLINE void transform(const Vec* in, Vec* out) {
  Vec half[R * C];
#pragma GCC unroll 16
  for (int s = 0; s < C; s++) line<matrix, C>(in + s, C, half + s, C, std::make_integer_sequence<int, R>());
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) line<matrix, C>(half + r * C, 1, out + r * R, 1, std::make_integer_sequence<int, R>());
}

struct Shape {
  int n, h, c, k;  // of the small map, square
};

int padded(int count) { return (count + 31) / 32 * 32 + 16; }

double seconds() {  // processor time: other processes do not count
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// y (n,2h,2h,k) = conv(x enlarged), w (k,9,c), by blocks of so many tiles, as winograd.cpp goes.
template <class W>
__attribute__((noinline)) void convolve(const Shape& s, const float* x, const float* w, float* y, int block, std::vector<float>& scratch) {
  constexpr int window = W::window, points = W::points, products = W::products, outputs = W::outputs;
  const phx::GemmMicrokernels& micro = phx::gemm_microkernels();
  int nr = micro.nr, ldv = padded(s.c), ldm = padded(s.k), panels = s.k / nr, side = 2 * s.h, down = (side + outputs - 1) / outputs;
  size_t u_stride = size_t(s.k) * s.c + 16, v_stride = size_t(block) * ldv + 16, m_stride = size_t(block) * ldm + 16;
  scratch.resize(std::max(scratch.size(), u_stride * products * products + v_stride * points * points + m_stride * products * products +
                                              padded(s.c) + size_t(9) * s.c * nr));
  float *u = scratch.data(), *v = u + u_stride * products * products, *m = v + v_stride * points * points,
        *zeros = m + m_stride * products * products, *taps = zeros + padded(s.c);
  std::memset(zeros, 0, padded(s.c) * sizeof(float));
  for (int j = 0; j < panels; j++) {
    for (int tap = 0; tap < 9; tap++)
      micro.pack(s.c, nr, w + size_t(j) * nr * 9 * s.c + size_t(tap) * s.c, 1, 9 * s.c, taps + size_t(tap) * s.c * nr);
    for (int i = 0; i < s.c * nr; i += kLanes) {
      Vec g[9], out[products * products];
#pragma GCC unroll 9
      for (int tap = 0; tap < 9; tap++) g[tap] = load(taps + size_t(tap) * s.c * nr + i);
      transform<W::g, products, 3>(g, out);
#pragma GCC unroll 81
      for (int e = 0; e < products * products; e++) store(u + e * u_stride + size_t(j) * s.c * nr + i, out[e]);
    }
  }
  int count = s.n * down * down;
  for (int first = 0; first < count; first += block) {
    int last = std::min(count, first + block);
    for (int t = first; t < last; t++) {
      int n = t / (down * down), top = t / down % down * outputs, left = t % down * outputs;
      const float* at[window * window];
      for (int r = 0; r < window; r++)
        for (int q = 0; q < window; q++) {
          int i = W::zoom == 2 ? (top - 1 + r) >> 1 : top / 2 - 1 + r, j = W::zoom == 2 ? (left - 1 + q) >> 1 : left / 2 - 1 + q;
          at[r * window + q] =
              unsigned(i) < unsigned(s.h) && unsigned(j) < unsigned(s.h) ? x + ((size_t(n) * s.h + i) * s.h + j) * s.c : zeros;
        }
      for (int i = 0; i < s.c; i += kLanes) {
        Vec d[window * window], out[points * points];
#pragma GCC unroll 36
        for (int p = 0; p < window * window; p++) d[p] = load(at[p] + i);
        transform<W::b, points, window>(d, out);
#pragma GCC unroll 36
        for (int e = 0; e < points * points; e++) store(v + e * v_stride + size_t(t - first) * ldv + i, out[e]);
      }
    }
    for (int e = 0; e < products * products; e++) {
      int point = W::point_of(e / products) * points + W::point_of(e % products);
      for (int j = 0; j < panels; j++)
        micro.panel(
            {last - first, nr, s.c, v + point * v_stride, ldv, 1, u + e * u_stride + size_t(j) * nr * s.c, m + e * m_stride + j * nr, ldm});
    }
    for (int t = first; t < last; t++) {
      int n = t / (down * down), top = t / down % down * outputs, left = t % down * outputs;
      for (int i = 0; i < s.k; i += kLanes) {
        Vec d[products * products], out[outputs * outputs];
#pragma GCC unroll 81
        for (int e = 0; e < products * products; e++) d[e] = load(m + e * m_stride + size_t(t - first) * ldm + i);
        transform<W::a, outputs, products>(d, out);
#pragma GCC unroll 8
        for (int r = 0; r < outputs; r++)
#pragma GCC unroll 8
          for (int q = 0; q < outputs; q++)
            if (top + r < side && left + q < side)
              store(y + ((size_t(n) * side + top + r) * side + left + q) * s.k + i, out[r * outputs + q]);
      }
    }
  }
}

double error(const Shape& s, const float* x, const float* w, const float* y) {
  double off = 0, norm = 0;
  int side = 2 * s.h;
  for (int i = 0; i < side; i++)
    for (int j = 0; j < side; j++)
      for (int k = 0; k < s.k; k += 17) {
        double sum = 0;
        for (int tap = 0; tap < 9; tap++) {
          int a = i + tap / 3 - 1, b = j + tap % 3 - 1;
          if (a < 0 || b < 0 || a >= side || b >= side) continue;
          for (int c = 0; c < s.c; c++) sum += double(x[(size_t(a / 2) * s.h + b / 2) * s.c + c]) * w[(size_t(k) * 9 + tap) * s.c + c];
        }
        double difference = y[(size_t(i) * side + j) * s.k + k] - sum;
        off += difference * difference, norm += sum * sum;
      }
  return std::sqrt(off / norm);
}

struct Way {
  const char* name;
  void (*run)(const Shape&, const float*, const float*, float*, int, std::vector<float>&);
};

}  // namespace

int main() {
  const Shape shapes[] = {{32, 7, 64, 64}, {32, 14, 64, 64}, {8, 4, 256, 256}, {8, 8, 256, 256}, {8, 16, 256, 256}};
  const Way ways[] = {
      {"F(4x4,3x3)", convolve<Enlarged>}, {"m = 2", convolve<Small<2>>}, {"m = 3", convolve<Small<3>>}, {"m = 4", convolve<Small<4>>}};
  const int blocks[] = {8, 14, 28, 56, 112};
  uint32_t state = 1;
  auto draw = [&](size_t count, double scale) {
    std::vector<float> v(count);
    for (float& x : v) state = state * 1664525u + 1013904223u, x = float(scale * int32_t(state) * 0x1p-31);
    return v;
  };
  std::vector<float> scratch;
  for (const Shape& s : shapes) {
    auto x = draw(size_t(s.n) * s.h * s.h * s.c, 1), w = draw(size_t(s.k) * 9 * s.c, 1 / std::sqrt(9.0 * s.c));
    std::vector<float> y(size_t(s.n) * s.h * s.h * 4 * s.k);
    double best[4][5];
    for (auto& of_way : best) std::fill(of_way, of_way + 5, 1e9);
    for (int round = 0; round < 9; round++)
      for (int b = 0; b < 5; b++)
        for (int i = 0; i < 4; i++) {
          double from = seconds();
          ways[i].run(s, x.data(), w.data(), y.data(), blocks[b], scratch);
          best[i][b] = std::min(best[i][b], seconds() - from);
        }
    std::printf("%d -> %d, %d -> %d channels, batch %d\n", s.h, 2 * s.h, s.c, s.k, s.n);
    double flops = 2.0 * 9 * s.c * s.k * s.n * s.h * s.h * 4;
    for (int i = 0; i < 4; i++) {
      std::fill(y.begin(), y.end(), NAN);
      ways[i].run(s, x.data(), w.data(), y.data(), 28, scratch);
      std::printf("  %-10s error %.1e; GFLOP/s by blocks of 8, 14, 28, 56, 112 tiles:", ways[i].name,
                  error(s, x.data(), w.data(), y.data()));
      for (double t : best[i]) std::printf(" %.0f", flops / t * 1e-9);
      std::printf("\n");
    }
  }
}
