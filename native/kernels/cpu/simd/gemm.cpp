// The register tile of the matrix product: MR rows × 2 vectors, one broadcast of A and two FMAs per row and step. Its accumulators fill the
// registers (AVX-512: 14×2 of 32, AVX2: 6×2 of 16, NEON: 12×2 of 32, SSE2: 4×2 of 16), so 97 % of the FMA peak is within reach of a panel
// that stays in cache (Goto & van de Geijn 2008). Every element is one FMA chain over k, also where k is done in pieces (the chain goes on
// from what c holds): results depend neither on the tile's height nor on the cut.
#include "kernels/cpu/simd/gemm.h"
#include "kernels/cpu/simd/vec.h"

namespace phx {
namespace PHOENIX_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kRows = 14;
#elif defined(__AVX2__)
constexpr int kRows = 6;
#elif defined(__aarch64__)
constexpr int kRows = 12;
#else
constexpr int kRows = 4;
#endif
constexpr int kColumns = 2 * kLanes;
constexpr int kLine = 16;  // floats of a cache line

// What a tile fetches into the caches meanwhile: nothing, the next tile's rows and c, or the lines from GemmPanel::ahead on.
enum class Fetch { nothing, rows, ahead };

// M rows × V whole vectors, the t-th tile of its panel.
template <int M, int V, bool UnitStep, Fetch fetch>
__attribute__((noinline)) void tile(const GemmPanel& g, int t, const float* a, float* c, const float* matrix) {
  Vec sum[M][V];
  if (matrix) {
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) sum[i][v] = load(matrix + i * g.ld + v * kLanes);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) sum[i][v] = Vec{};
  }
  if (g.row) {
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) sum[i][v] += load(g.row + v * kLanes);
  }
  const float* b = g.b;
  ptrdiff_t rs = g.rs, cs = UnitStep ? 1 : g.cs;
  auto step = [&]() __attribute__((always_inline)) {
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
  };
  if (fetch == Fetch::rows) {
    // 14 rows side by side are more streams than the hardware foresees.
    const float* next = a + M * rs;
    float* to = c;
    for (int p = 0; p < g.k; next += kLine) {
      for (int i = 0; i < M; i++) __builtin_prefetch(next + i * rs);
      for (int past = g.k - p < kLine ? g.k : p + kLine; p < past; p++) {
        if (to < c + M * g.ldc) {
          __builtin_prefetch(to, 1), __builtin_prefetch(to + V * kLanes - 1, 1);
          to += g.ldc;
        }
        step();
      }
    }
  } else if (fetch == Fetch::ahead) {
    const float* ahead = g.ahead + ptrdiff_t(t) * g.k * kLine;
    for (int p = 0; p < g.k; p++, ahead += kLine) {
      __builtin_prefetch(ahead, 0, 2);
      step();
    }
  } else {
    for (int p = 0; p < g.k; p++) step();
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) store(c + i * g.ldc + v * kLanes, sum[i][v]);
}

template <int M, int V, bool UnitStep, Fetch fetch>
void rows(int m, const GemmPanel& g, int t, const float* a, float* c, const float* matrix) {
  if (m == M)
    tile<M, V, UnitStep, fetch>(g, t, a, c, matrix);
  else if constexpr (M > 1)
    rows<M - 1, V, UnitStep, fetch>(m, g, t, a, c, matrix);
}

// Tiles of almost equal height: a thin last one would wait on its few accumulators.
template <int V, bool UnitStep, Fetch fetch>
void tiles(const GemmPanel& g) {
  int count = gemm_tiles(g.m, kRows);
  for (int t = 0; t < count; t++) {
    int first = int((long long)g.m * t / count), height = int((long long)g.m * (t + 1) / count) - first;
    rows<kRows, V, UnitStep, fetch>(height, g, t, g.a + first * g.rs, g.c + first * g.ldc, g.matrix ? g.matrix + first * g.ld : nullptr);
  }
}

template <int V>
void columns(const GemmPanel& g) {
  if (g.cs != 1)
    g.ahead ? tiles<V, false, Fetch::ahead>(g) : tiles<V, false, Fetch::nothing>(g);
  else if (g.ahead)
    tiles<V, true, Fetch::ahead>(g);
  else if (g.cold)
    tiles<V, true, Fetch::rows>(g);
  else
    tiles<V, true, Fetch::nothing>(g);
}

void panel(const GemmPanel& g) {
  if (g.n == kColumns) return columns<2>(g);
  if (g.n == kLanes) return columns<1>(g);
  // The right edge of c: tile by tile through a block of whole vectors.
  float row[kColumns], block[kRows * kColumns];
  for (int j = 0; j < kColumns; j++) row[j] = g.row && j < g.n ? g.row[j] : 0;
  for (int i = 0; i < g.m; i += kRows) {
    GemmPanel part = g;
    part.m = g.m - i < kRows ? g.m - i : kRows;
    part.a += i * g.rs, part.c = block, part.ldc = kColumns, part.row = g.row ? row : nullptr, part.cold = false, part.ahead = nullptr;
    if (g.matrix) {
      part.matrix = block, part.ld = kColumns;
      for (int r = 0; r < part.m; r++)
        for (int j = 0; j < kColumns; j++) block[r * kColumns + j] = j < g.n ? g.matrix[(i + r) * g.ld + j] : 0;
    }
    g.n > kLanes ? columns<2>(part) : columns<1>(part);
    for (int r = 0; r < part.m; r++)
      for (int j = 0; j < g.n; j++) g.c[(i + r) * g.ldc + j] = block[r * kColumns + j];
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

extern const GemmMicrokernels gemm_microkernels_table;
const GemmMicrokernels gemm_microkernels_table = {kRows, kColumns, pack, panel, sum_rows};

}  // namespace PHOENIX_ISA
}  // namespace phx
