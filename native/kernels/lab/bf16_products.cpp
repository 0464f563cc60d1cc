// Race: a matrix product with AVX512_BF16 (vdpbf16ps: two bfloat16 products a lane and instruction, float sums) against gemm.cpp in float,
// at the linear layers of sampling, and what it costs in accuracy. A is float in memory and is rounded as each block of rows is taken up,
// B (the weights) is rounded and packed beforehand, which sampling could keep.
//
//   F="-std=c++20 -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast -I native -DPHOENIX_BACKEND=\"cpu\""
//   K=native/kernels; V="-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mprefer-vector-width=512"
//   for isa in portable avx2 avx512; do
//     case $isa in portable) o=;; avx2) o="-mavx2 -mfma";; avx512) o=$V;; esac
//     g++ $F $o -DPHOENIX_ISA=$isa -c $K/gemm.simd.cpp -o gemm.$isa.o
//   done
//   g++ $F $V -mavx512bf16 $K/lab/bf16_products.cpp $K/{gemm,context,device,parallel,simd}.cpp gemm.*.o -pthread -o bf16_products && ./bf16_products
//
// One Zen 4 core, GFLOP/s, float → bf16 (relative L2 difference 2e-3 each):
//   6272 rows 64 → 192     92–101 → 196–200      4096 rows 256 → 768    108 → 166–184
//   6272 rows 64 → 64     109–110 → 187–194      4096 rows 256 → 256    106 → 179–181
//                                                16384 rows 256 → 128   104–107 → 163–169
// Linear layers are 21 % of a denoising step of `cifar` (b8) and 17 % of one of `small28` (b32): 1.7 times as fast they would save 7 to 9 %
// of the step, at an error a thousand times that of float. Convolutions, two thirds of it, have no part in that: in float, Winograd's algorithm
// runs at 2.6 to 3.2 times the float peak, more than bf16's 2. Not taken (docs/decisions.md). Never linked.
#include <immintrin.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "kernels/gemm.h"

namespace {

constexpr int kRows = 14, kColumns = 32, kRowsAtOnce = 112;

double seconds() {  // processor time: other processes do not count
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

template <class Run>
double fastest(Run run) {
  double best = 1e9;
  for (int i = 0; i < 60; i++) {
    double from = seconds();
    run();
    best = std::min(best, seconds() - from);
  }
  return best;
}

// b (k,n) transposed view w (n,k) → panels of 32 columns, pairs of k side by side.
std::vector<uint32_t> pack(int n, int k, const float* w) {
  std::vector<uint32_t> out(size_t(k / 2) * n);
  auto half = [](float x) { return uint16_t(_mm_cvtsi128_si32(__m128i(_mm_cvtneps_pbh(_mm_set_ss(x))))); };
  for (int j = 0; j < n; j += kColumns)
    for (int p = 0; p < k; p += 2)
      for (int i = 0; i < kColumns; i++)
        out[size_t(j) * (k / 2) + size_t(p / 2) * kColumns + i] =
            half(w[size_t(j + i) * k + p]) | uint32_t(half(w[size_t(j + i) * k + p + 1])) << 16;
  return out;
}

template <int M>
__attribute__((noinline)) void tile(int pairs, const uint32_t* a, ptrdiff_t lda, const uint32_t* b, const float* bias, float* c,
                                    ptrdiff_t ldc) {
  __m512 sum[M][2];
#pragma GCC unroll 16
  for (int i = 0; i < M; i++) sum[i][0] = _mm512_loadu_ps(bias), sum[i][1] = _mm512_loadu_ps(bias + 16);
  for (int p = 0; p < pairs; p++, b += kColumns) {
    __m512bh right0 = __m512bh(_mm512_loadu_si512(b)), right1 = __m512bh(_mm512_loadu_si512(b + 16));
#pragma GCC unroll 16
    for (int i = 0; i < M; i++) {
      __m512bh left = __m512bh(_mm512_set1_epi32(int(a[i * lda + p])));
      sum[i][0] = _mm512_dpbf16_ps(sum[i][0], left, right0);
      sum[i][1] = _mm512_dpbf16_ps(sum[i][1], left, right1);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; i++) _mm512_storeu_ps(c + i * ldc, sum[i][0]), _mm512_storeu_ps(c + i * ldc + 16, sum[i][1]);
}

void product(int m, int n, int k, const float* x, const uint32_t* packed, const float* bias, float* y, uint32_t* rounded) {
  int lda = k / 2 + 16;
  for (int i = 0; i < m; i += kRowsAtOnce) {
    int rows = std::min(kRowsAtOnce, m - i);
    for (int r = 0; r < rows; r++)
      for (int p = 0; p < k; p += 16)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(rounded + size_t(r) * lda + p / 2),
                            __m256i(_mm512_cvtneps_pbh(_mm512_loadu_ps(x + size_t(i + r) * k + p))));
    for (int j = 0; j < n; j += kColumns)
      for (int r = 0; r < rows; r += kRows)
        tile<kRows>(k / 2, rounded + size_t(r) * lda, lda, packed + size_t(j) * (k / 2), bias + j, y + size_t(i + r) * n + j, n);
  }
}

}  // namespace

int main() {
  const int shapes[][3] = {
      {32 * 14 * 14, 64, 192}, {32 * 14 * 14, 64, 64}, {16 * 256, 256, 768}, {16 * 256, 256, 256}, {16 * 1024, 256, 128}};
  uint32_t state = 1;
  auto draw = [&](size_t count) {
    std::vector<float> v(count);
    for (float& x : v) state = state * 1664525u + 1013904223u, x = float(int32_t(state)) * 0x1p-31f;
    return v;
  };
  for (auto [rows, k, n] : shapes) {
    int m = (rows + kRows - 1) / kRows * kRows;
    auto x = draw(size_t(m) * k), w = draw(size_t(n) * k), bias = draw(n);
    std::vector<float> y(size_t(m) * n), z(y.size()), packed(phx::gemm_packed(n, k));
    std::vector<uint32_t> rounded(size_t(kRowsAtOnce) * (k / 2 + 16)), halves = pack(n, k, w.data());
    phx::gemm_pack(n, k, {w.data(), 1, k}, packed.data(), 0, phx::gemm_parts(n, k));
    double in_float = fastest([&] {
      for (int i = 0; i < m; i += kRowsAtOnce)
        phx::gemm_rows_onto(std::min(kRowsAtOnce, m - i), n, k, {x.data() + size_t(i) * k, k, 1}, packed.data(), y.data() + size_t(i) * n,
                            n, bias.data(), nullptr, 0);
    });
    double in_bf16 = fastest([&] { product(m, n, k, x.data(), halves.data(), bias.data(), z.data(), rounded.data()); });
    double off = 0, norm = 0;
    for (size_t i = 0; i < y.size(); i++) off += std::pow(double(y[i]) - z[i], 2), norm += double(y[i]) * y[i];
    double flops = 2.0 * m * n * k;
    std::printf("%6d rows %4d -> %4d: float %6.1f, bf16 %6.1f GFLOP/s (%.2f x), relative L2 difference %.1e\n", m, k, n,
                flops / in_float * 1e-9, flops / in_bf16 * 1e-9, in_float / in_bf16, std::sqrt(off / norm));
  }
}
