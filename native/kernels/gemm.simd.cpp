// The register tile of the matrix product: MR rows × 2 vectors, one broadcast of A and two FMAs a row and step. Its accumulators fill the
// registers (AVX-512: 14×2 of 32, AVX2: 6×2 of 16, 4-lane: 4×2), so 97 % of the FMA peak is within reach of a panel that stays in cache
// (Goto & van de Geijn 2008). Every element is one FMA chain over k, also where k is done in pieces (the chain goes on from what c holds):
// results depend neither on the tile's height nor on the cut.
#include "gemm_leaves.h"
#include "vec.h"

namespace phx {
namespace PHOENIX_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kRows = 14;
#elif defined(__AVX2__)
constexpr int kRows = 6;
#else
constexpr int kRows = 4;
#endif
constexpr int kColumns = 2 * kLanes;

// M rows × V vectors; V = 1 serves right edges of at most one vector.
template <int M, int V, bool UnitStep>
__attribute__((noinline)) void tile(int n, int k, const float* a, ptrdiff_t rs, ptrdiff_t cs, const float* b, float* c, ptrdiff_t ldc,
                                    bool accumulate) {
  Vec sum[M][V];
  float row[V * kLanes];
  bool whole = n == V * kLanes;
#pragma GCC unroll 16
  for (int i = 0; i < M; i++) {
    const float* from = c + i * ldc;
    if (accumulate && !whole) {
      for (int j = 0; j < V * kLanes; j++) row[j] = j < n ? from[j] : 0;
      from = row;
    }
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) sum[i][v] = accumulate ? load(from + v * kLanes) : Vec{};
  }
  if (UnitStep) cs = 1;
  for (int p = 0; p < k; p++) {
    Vec right[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) right[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < M; i++) {
      Vec left = set1(a[i * rs]);
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) sum[i][v] += left * right[v];
    }
    a += cs, b += kColumns;
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; i++) {
    float* to = c + i * ldc;
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) store(whole ? to + v * kLanes : row + v * kLanes, sum[i][v]);
    if (!whole)
      for (int j = 0; j < n; j++) to[j] = row[j];
  }
}

template <int M, int V, bool UnitStep>
void rows(int m, int n, int k, const float* a, ptrdiff_t rs, ptrdiff_t cs, const float* b, float* c, ptrdiff_t ldc, bool accumulate) {
  if (m == M)
    tile<M, V, UnitStep>(n, k, a, rs, cs, b, c, ldc, accumulate);
  else if constexpr (M > 1)
    rows<M - 1, V, UnitStep>(m, n, k, a, rs, cs, b, c, ldc, accumulate);
}

void panel(int m, int n, int k, const float* a, ptrdiff_t rs, ptrdiff_t cs, const float* b, float* c, ptrdiff_t ldc, bool accumulate) {
  // Tiles of almost equal height: a thin last one would wait on its few accumulators.
  int tiles = (m + kRows - 1) / kRows;
  for (int t = 0; t < tiles; t++) {
    int first = int((long long)m * t / tiles), height = int((long long)m * (t + 1) / tiles) - first;
    const float* from = a + first * rs;
    float* to = c + first * ldc;
    if (n > kLanes)
      cs == 1 ? rows<kRows, 2, true>(height, n, k, from, rs, cs, b, to, ldc, accumulate)
              : rows<kRows, 2, false>(height, n, k, from, rs, cs, b, to, ldc, accumulate);
    else
      cs == 1 ? rows<kRows, 1, true>(height, n, k, from, rs, cs, b, to, ldc, accumulate)
              : rows<kRows, 1, false>(height, n, k, from, rs, cs, b, to, ldc, accumulate);
  }
}

typedef float Quad __attribute__((vector_size(16)));
typedef float QuadMem __attribute__((vector_size(16), aligned(4), may_alias));
typedef int QuadI __attribute__((vector_size(16)));

#if defined(__clang__)
#define PHX_SHUFFLE(x, y, i, j, k, l) __builtin_shufflevector(x, y, i, j, k, l)
#else
#define PHX_SHUFFLE(x, y, i, j, k, l) __builtin_shuffle(x, y, QuadI{i, j, k, l})
#endif

void pack(int k, int n, const float* b, ptrdiff_t rs, ptrdiff_t cs, float* out) {
  int p = 0;
  if (cs == 1 && n == kColumns) {
    for (; p < k; p++) {
      store(out + ptrdiff_t(p) * kColumns, load(b + p * rs));
      store(out + ptrdiff_t(p) * kColumns + kLanes, load(b + p * rs + kLanes));
    }
    return;
  }
  if (rs == 1 && n >= 4) {  // transposed, four by four
    for (; p + 4 <= k; p += 4)
      for (int j = 0; j + 4 <= n; j += 4) {
        const float* from = b + p + j * cs;
        Quad r0 = *(const QuadMem*)from, r1 = *(const QuadMem*)(from + cs), r2 = *(const QuadMem*)(from + 2 * cs),
             r3 = *(const QuadMem*)(from + 3 * cs);
        Quad a = PHX_SHUFFLE(r0, r1, 0, 4, 1, 5), c = PHX_SHUFFLE(r2, r3, 0, 4, 1, 5);
        Quad d = PHX_SHUFFLE(r0, r1, 2, 6, 3, 7), e = PHX_SHUFFLE(r2, r3, 2, 6, 3, 7);
        float* to = out + ptrdiff_t(p) * kColumns + j;
        *(QuadMem*)to = PHX_SHUFFLE(a, c, 0, 1, 4, 5);
        *(QuadMem*)(to + kColumns) = PHX_SHUFFLE(a, c, 2, 3, 6, 7);
        *(QuadMem*)(to + 2 * kColumns) = PHX_SHUFFLE(d, e, 0, 1, 4, 5);
        *(QuadMem*)(to + 3 * kColumns) = PHX_SHUFFLE(d, e, 2, 3, 6, 7);
      }
    for (int q = 0; q < p; q++) {
      float* to = out + ptrdiff_t(q) * kColumns;
      for (int j = n & ~3; j < n; j++) to[j] = b[q + j * cs];
      for (int j = n; j < kColumns; j++) to[j] = 0;
    }
  }
  for (; p < k; p++) {
    float* to = out + ptrdiff_t(p) * kColumns;
    for (int j = 0; j < n; j++) to[j] = b[p * rs + j * cs];
    for (int j = n; j < kColumns; j++) to[j] = 0;
  }
}

void sum_rows(int rows, int c, const float* x, ptrdiff_t ld, float* out) {
  int j = 0;
  for (; j + 2 * kLanes <= c; j += 2 * kLanes) {
    Vec a{}, b{};
    for (int i = 0; i < rows; i++) a += load(x + i * ld + j), b += load(x + i * ld + j + kLanes);
    store(out + j, a), store(out + j + kLanes, b);
  }
  for (; j < c; j++) {
    float a = 0;
    for (int i = 0; i < rows; i++) a += x[i * ld + j];
    out[j] = a;
  }
}

}  // namespace

extern const GemmLeaves gemm_leaves_table;
const GemmLeaves gemm_leaves_table = {kRows, kColumns, pack, panel, sum_rows};

}  // namespace PHOENIX_ISA
}  // namespace phx
