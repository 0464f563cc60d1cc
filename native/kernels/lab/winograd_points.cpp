// Race: interpolation points 0, ±a, ±b, ∞ of F(4x4,3x3) in float32, by rounding error alone: that with ±1 a few products
// fall away is not timed. Never linked.
//   g++ -O2 -std=c++20 native/kernels/lab/winograd_points.cpp -o winograd_points && ./winograd_points
// Relative L2 error against direct convolution in double, SiLU of normal values in, filters of variance 1/(9·128), 200 tiles of 128
// channels, products added up in ascending order of channels (as the kernels do):
//   ±1, ±2      2.0e-6 (the usual)     ±5/8, ±5/4  1.06e-6
//   ±1/2, ±1    1.9e-6                 ±2/3, ±3/2  9.7e-7
//   ±1/2, ±2    1.3e-6                 ±3/4, ±3/2  9.6e-7
//   ±1/2, ±3/2  1.1e-6                 ±5/8, ±3/2  9.2e-7 (taken)
// Matrices for any points: Lavin & Gray 2016, §4.1 (Toom-Cook); the kernel's form of them is in cpu/simd/winograd.cpp.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

namespace {

constexpr int kChannels = 128, kTiles = 200;

struct Matrices {
  double b[6][6] = {}, g[6][3] = {}, a[4][6] = {};  // Bᵀ, G, Aᵀ
};

// Coefficients of Π (x - q) over the finite points, without number `left_out`.
void polynomial(const double* points, int left_out, double* out) {
  double c[6] = {1};
  for (int q = 0, degree = 0; q < 5; q++) {
    if (q == left_out) continue;
    for (int i = ++degree; i >= 0; i--) c[i] = (i ? c[i - 1] : 0) - points[q] * c[i];
  }
  for (int i = 0; i < 6; i++) out[i] = c[i];
}

Matrices matrices(double a, double b) {
  const double points[5] = {0, a, -a, b, -b};
  Matrices m;
  for (int p = 0; p < 5; p++) {
    polynomial(points, p, m.b[p]);
    double product = 1;
    for (int q = 0; q < 5; q++)
      if (q != p) product *= points[p] - points[q];
    for (int i = 0; i < 3; i++) m.g[p][i] = std::pow(points[p], i) / product;
    for (int i = 0; i < 4; i++) m.a[i][p] = std::pow(points[p], i);
  }
  polynomial(points, 5, m.b[5]);
  m.g[5][2] = 1;
  m.a[3][5] = 1;
  return m;
}

// out (R,R) = M x Mᵀ in floats; M (R,C), x (C,C).
template <int R, int C>
void transform(const double (&m)[R][C], const float* x, float* out) {
  float half[R][C];
  for (int i = 0; i < R; i++)
    for (int j = 0; j < C; j++) {
      float sum = 0;
      for (int k = 0; k < C; k++) sum = std::fma(float(m[i][k]), x[k * C + j], sum);
      half[i][j] = sum;
    }
  for (int i = 0; i < R; i++)
    for (int j = 0; j < R; j++) {
      float sum = 0;
      for (int k = 0; k < C; k++) sum = std::fma(half[i][k], float(m[j][k]), sum);
      out[i * R + j] = sum;
    }
}

double error(const Matrices& m) {
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  double difference = 0, norm = 0;
  std::vector<float> x(kChannels * 36), w(kChannels * 9);
  for (int tile = 0; tile < kTiles; tile++) {
    for (float& value : x) {
      double z = normal(random);
      value = float(z / (1 + std::exp(-z)));
    }
    for (float& value : w) value = float(normal(random) / std::sqrt(9.0 * kChannels));
    float sums[36] = {}, y[16];
    double exact[16] = {};
    for (int c = 0; c < kChannels; c++) {
      const float *pixels = &x[c * 36], *taps = &w[c * 9];
      float v[36], u[36];
      transform(m.b, pixels, v);
      transform(m.g, taps, u);
      for (int e = 0; e < 36; e++) sums[e] = std::fma(v[e], u[e], sums[e]);
      for (int i = 0; i < 16; i++)
        for (int t = 0; t < 9; t++) exact[i] += double(pixels[(i / 4 + t / 3) * 6 + i % 4 + t % 3]) * taps[t];
    }
    transform(m.a, sums, y);
    for (int i = 0; i < 16; i++) difference += (y[i] - exact[i]) * (y[i] - exact[i]), norm += exact[i] * exact[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace

int main() {
  const double pairs[][2] = {{1, 2}, {0.5, 1}, {0.5, 2}, {0.5, 1.5}, {0.625, 1.25}, {0.625, 1.5}, {0.75, 1.5}, {2.0 / 3, 1.5}};
  for (const auto& p : pairs) std::printf("0, +-%.4f, +-%.4f  %.2e\n", p[0], p[1], error(matrices(p[0], p[1])));
}
