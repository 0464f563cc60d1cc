// Race: gemm.cpp's matrix product of factors in float against that of factors rounded to bfloat16 (cpu/simd/gemm_bf16.cpp: vdpbf16ps, two products a
// lane and instruction, sums in float), at linear layers of sampling, and what it costs in accuracy. The weights are packed beforehand, the rows
// are rounded as they are taken up.
//
//   F="-std=c++20 -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast -I native -DPHOENIX_BACKEND=\"cpu\""
//   K=native/kernels; V="-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mprefer-vector-width=512"
//   for isa in portable avx2 avx512; do
//     case $isa in portable) o=;; avx2) o="-mavx2 -mfma";; avx512) o=$V;; esac
//     for kernel in gemm gemm_bf16; do g++ $F $o -DPHOENIX_ISA=$isa -c $K/cpu/simd/$kernel.cpp -o $kernel.$isa.o; done
//   done
//   g++ $F $K/lab/bf16_products.cpp $K/{cpu/gemm,context,host/device,parallel,isa}.cpp gemm*.o -pthread -o bf16_products && ./bf16_products
//
// One Zen 4 core of a busy machine, GFLOP/s, float → bf16 (relative L2 difference 2e-3 each):
//   6272 rows 64 → 192     84–87 → 127–137      4096 rows 256 → 768    107–110 → 189–191
//   6272 rows 64 → 64    110 → 186–190          4096 rows 256 → 256    109–112 → 188–193
//                                              16384 rows 256 → 128   104–105 → 162
// Without fetching c's lines while sums are formed: 114–120, 176–187, 179, 176–178 and 154–157.
// Convolutions, two thirds of a denoising step, have no part in that but those of stride 2: in float, Winograd's algorithm runs at 2.6 to 3.2 times
// the float peak, more than bf16's 2. Never linked.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/isa.h"

namespace {

double seconds() {  // processor time: other processes do not count
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

}  // namespace

int main() {
  if (!phx::bf16_products()) return std::puts("this processor lacks AVX512_BF16, or PHOENIX_CPU_ISA asks for less"), 1;
  const int shapes[][3] = {
      {32 * 14 * 14, 64, 192}, {32 * 14 * 14, 64, 64}, {16 * 256, 256, 768}, {16 * 256, 256, 256}, {16 * 1024, 256, 128}};
  uint32_t state = 1;
  auto draw = [&](size_t count) {
    std::vector<float> v(count);
    for (float& x : v) state = state * 1664525u + 1013904223u, x = float(int32_t(state)) * 0x1p-31f;
    return v;
  };
  for (auto [m, k, n] : shapes) {
    auto x = draw(size_t(m) * k), w = draw(size_t(n) * k), bias = draw(n);
    std::vector<float> y[2], packed[2];
    double best[2] = {1e9, 1e9};
    for (int i = 0; i < 60; i++)
      for (int way = 0; way < 2; way++) {
        y[way].resize(size_t(m) * n), packed[way].resize(phx::gemm_packed(n, k));
        phx::Packed b{packed[way].data(), way ? phx::Type::bf16 : phx::Type::real};
        if (i == 0) phx::gemm_pack(n, k, {w.data(), 1, k}, b, 0, phx::gemm_parts(n, k));
        double from = seconds();
        for (int row = 0; row < m; row += 112)
          phx::gemm_rows_onto(std::min(112, m - row), n, k, {x.data() + size_t(row) * k, k, 1}, b, y[way].data() + size_t(row) * n, n,
                              bias.data(), nullptr, 0);
        best[way] = std::min(best[way], seconds() - from);
      }
    double off = 0, norm = 0;
    for (size_t i = 0; i < y[0].size(); i++) off += std::pow(double(y[0][i]) - y[1][i], 2), norm += double(y[0][i]) * y[0][i];
    double flops = 2.0 * m * n * k;
    std::printf("%6d rows %4d -> %4d: float %6.1f, bf16 %6.1f GFLOP/s (%.2f x), relative L2 difference %.1e\n", m, k, n,
                flops / best[0] * 1e-9, flops / best[1] * 1e-9, best[0] / best[1], std::sqrt(off / norm));
  }
}
