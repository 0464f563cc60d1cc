// The register tile of gemm.simd.cpp over factors rounded to bfloat16: vdpbf16ps (AVX512_BF16) multiplies a pair of neighbours in k and
// adds both products to a float, so a step over k does twice the work. Factors are rounded to nearest, ties to even, subnormal ones to 0;
// products of two bfloat16 are exact in float. 14 rows × 2 vectors as there, the right edge by masks: an element is one chain over the
// pairs of k.
#include "kernels/cpu/simd/gemm.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace phx {
namespace PHOENIX_ISA {

#if defined(__AVX512F__)
namespace {

// AVX-512's set as this file is compiled for it does not have the instructions: who calls asks the processor first (simd.h, bf16_products).
#define PHX_BF16 __attribute__((target("avx512bf16")))

typedef int Words __attribute__((vector_size(64)));
constexpr int kRows = 14, kLanes = 16, kColumns = 2 * kLanes;

// M rows × V vectors, the last of which has the columns of `edge`.
template <int M, int V>
PHX_BF16 __attribute__((noinline)) void tile(const GemmPanel& g, __mmask16 edge, const float* a, float* c, const float* matrix) {
  __m512 sum[M][V];
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) {
      __mmask16 mask = v + 1 < V ? __mmask16(0xFFFF) : edge;
      sum[i][v] = matrix ? _mm512_maskz_loadu_ps(mask, matrix + i * g.ld + v * kLanes) : _mm512_setzero_ps();
      if (g.row) sum[i][v] = _mm512_add_ps(sum[i][v], _mm512_maskz_loadu_ps(mask, g.row + v * kLanes));
    }
  // c may come from memory: it is fetched while sums are formed.
  for (int i = 0; i < M; i++) __builtin_prefetch(c + i * g.ldc, 1), __builtin_prefetch(c + i * g.ldc + V * kLanes - 1, 1);
  const float* b = g.b;
  for (int p = 0; p < g.k; p++, a++, b += kColumns) {
    __m512bh right[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) right[v] = (__m512bh)_mm512_loadu_ps(b + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < M; i++) {
      int pair;
      __builtin_memcpy(&pair, a + i * g.rs, sizeof pair);
      __m512bh left = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], left, right[v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) _mm512_mask_storeu_ps(c + i * g.ldc + v * kLanes, v + 1 < V ? __mmask16(0xFFFF) : edge, sum[i][v]);
}

template <int M, int V>
void rows(int m, const GemmPanel& g, __mmask16 edge, const float* a, float* c, const float* matrix) {
  if (m == M)
    tile<M, V>(g, edge, a, c, matrix);
  else if constexpr (M > 1)
    rows<M - 1, V>(m, g, edge, a, c, matrix);
}

void panel(const GemmPanel& g) {
  int count = gemm_tiles(g.m, kRows), last = (g.n - 1) % kLanes + 1;
  __mmask16 edge = __mmask16((1u << last) - 1);
  for (int t = 0; t < count; t++) {
    int first = int((long long)g.m * t / count), height = int((long long)g.m * (t + 1) / count) - first;
    (g.n > kLanes ? rows<kRows, 2> : rows<kRows, 1>)(height, g, edge, g.a + first * g.rs, g.c + first * g.ldc,
                                                     g.matrix ? g.matrix + first * g.ld : nullptr);
  }
}

PHX_BF16 void round_panel(int k, float* panel) {
  // Word 2i from word i (the even row), word 2i+1 from word 16+i.
  const __m512i by_turns = (__m512i)(Words{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * 0x10001 + 0x100000);
  for (int p = 0; p < k; p += 2)
    for (int j = 0; j < kColumns; j += kLanes) {
      const float* from = panel + ptrdiff_t(p) * kColumns + j;
      __m512 even = _mm512_loadu_ps(from), odd = p + 1 < k ? _mm512_loadu_ps(from + kColumns) : _mm512_setzero_ps();
      _mm512_storeu_si512(panel + ptrdiff_t(p / 2) * kColumns + j,
                          _mm512_maskz_permutexvar_epi16(~0u, by_turns, (__m512i)_mm512_cvtne2ps_pbh(odd, even)));
    }
}

PHX_BF16 void round_rows(int m, int k, const float* a, ptrdiff_t rs, float* pairs, ptrdiff_t ld) {
  for (int i = 0; i < m; i++, a += rs, pairs += ld)
    for (int p = 0; p < k; p += 2 * kLanes) {
      unsigned some = k - p < 2 * kLanes ? (1u << (k - p)) - 1 : ~0u;
      __m512 first = _mm512_maskz_loadu_ps(__mmask16(some), a + p),
             second = _mm512_maskz_loadu_ps(__mmask16(some >> kLanes), a + p + kLanes);
      _mm512_storeu_si512(pairs + p / 2, (__m512i)_mm512_cvtne2ps_pbh(second, first));
    }
}

}  // namespace

extern const Bf16Microkernels bf16_microkernels_table;
const Bf16Microkernels bf16_microkernels_table = {round_panel, round_rows, panel};
#else
extern const Bf16Microkernels bf16_microkernels_table;
const Bf16Microkernels bf16_microkernels_table = {nullptr, nullptr, nullptr};
#endif

}  // namespace PHOENIX_ISA
}  // namespace phx
