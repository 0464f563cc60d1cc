// C = A·B (+ C): B is packed into panels of one register tile's width, A is read where it lies, k is cut into blocks of equal length so
// that a panel (256 × 32 floats = 32 KB) and a block of A's rows stay in cache while they are used (Goto & van de Geijn 2008, §4). The
// cuts over k depend on k alone, so an element is the same sum on any number of threads.
#include "kernels/cpu/gemm.h"

#include <algorithm>

#include "kernels/cpu/simd/gemm.h"
#include "kernels/parallel.h"

namespace phx {
namespace {

int cut(int total, int parts, int i) { return int((long long)total * i / parts); }
int panels_of(int n) { return ceil_div(n, gemm_microkernels().nr); }
int deepest(int k) { return ceil_div(k, gemm_blocks(k)); }

// Panel `j` of rows [k0,k1) of b, n columns in all.
void pack_panel(int n, int j, int k0, int k1, MatrixView b, real* out) {
  const GemmMicrokernels& micro = gemm_microkernels();
  int column = j * micro.nr;
  micro.pack(k1 - k0, std::min(micro.nr, n - column), b.data + k0 * b.rs + column * b.cs, b.rs, b.cs, out);
}

// c = row + matrix + a·panels of pairs, each in the first half of its place; a is rounded as its rows are taken up.
void multiply_rounded(int m, int n, int depth, MatrixView a, const real* panels, real* c, ptrdiff_t ldc, const real* row,
                      const real* matrix, ptrdiff_t ld) {
  constexpr int kRowsAtOnce = 112, kPairs = kGemmDepth / 2 + 16;  // 64 KB: stays in L2 from the first panel to the last
  alignas(64) real pairs[kRowsAtOnce * kPairs];
  const Bf16Microkernels& micro = bf16_microkernels();
  int nr = gemm_microkernels().nr;
  for (int i = 0; i < m; i += kRowsAtOnce) {
    int rows = std::min(kRowsAtOnce, m - i);
    micro.round_rows(rows, depth, a.data + i * a.rs, a.rs, pairs, kPairs);
    for (int j = 0; j < n; j += nr)
      micro.panel({rows, std::min(nr, n - j), (depth + 1) / 2, pairs, kPairs, 1, panels + size_t(j) * depth, c + i * ldc + j, ldc,
                   row ? row + j : nullptr, matrix ? matrix + i * ld + j : nullptr, ld});
  }
}

// c = row + matrix + a·panels
void multiply(int m, int n, int depth, MatrixView a, Packed panels, real* c, ptrdiff_t ldc, const real* row, const real* matrix,
              ptrdiff_t ld) {
  if (panels.type == Type::bf16) return multiply_rounded(m, n, depth, a, panels.at, c, ldc, row, matrix, ld);
  const GemmMicrokernels& micro = gemm_microkernels();
  int chunk = 8 * micro.mr;
  for (int i = 0; i < m; i += chunk)
    for (int j = 0; j < n; j += micro.nr)
      micro.panel({std::min(chunk, m - i), std::min(micro.nr, n - j), depth, a.data + i * a.rs, a.rs, a.cs, panels.at + size_t(j) * depth,
                   c + i * ldc + j, ldc, row ? row + j : nullptr, matrix ? matrix + i * ld + j : nullptr, ld, true});
}

}  // namespace

int gemm_blocks(int k) { return std::max(1, ceil_div(k, kGemmDepth)); }
int gemm_block_begin(int k, int block) { return cut(k, gemm_blocks(k), block); }

int gemm_width(int n) { return panels_of(n) * gemm_microkernels().nr; }
size_t gemm_packed(int n, int k) { return size_t(k) * gemm_width(n); }
size_t gemm_parts(int n, int k) { return size_t(gemm_blocks(k)) * panels_of(n); }

// Packed: block after block of k, in each the panels side by side.
void gemm_pack(int n, int k, MatrixView b, Packed packed, size_t first_part, size_t last_part) {
  for (size_t part = first_part; part < last_part; part++) {
    int block = int(part / panels_of(n)), j = int(part % panels_of(n));
    int k0 = gemm_block_begin(k, block), k1 = gemm_block_begin(k, block + 1);
    real* panel = packed.at + size_t(k0) * gemm_width(n) + size_t(j) * gemm_microkernels().nr * (k1 - k0);
    pack_panel(n, j, k0, k1, b, panel);
    if (packed.type == Type::bf16) bf16_microkernels().round_panel(k1 - k0, panel);
  }
}

void gemm_rows_of_block(int m, int n, int k, int block, MatrixView a, Packed packed, real* c, ptrdiff_t ldc, const real* row,
                        const real* matrix, ptrdiff_t ld_matrix) {
  int k0 = gemm_block_begin(k, block), k1 = gemm_block_begin(k, block + 1);
  Packed panels{packed.at + size_t(k0) * gemm_width(n), packed.type};
  if (block == 0)
    multiply(m, n, k1 - k0, a, panels, c, ldc, row, matrix, ld_matrix);
  else
    multiply(m, n, k1 - k0, a, panels, c, ldc, nullptr, c, ldc);
}

void gemm_rows_onto(int m, int n, int k, MatrixView a, Packed packed, real* c, ptrdiff_t ldc, const real* row, const real* matrix,
                    ptrdiff_t ld_matrix) {
  for (int block = 0; block < gemm_blocks(k); block++)
    gemm_rows_of_block(m, n, k, block, {a.data + gemm_block_begin(k, block) * a.cs, a.rs, a.cs}, packed, c, ldc, row, matrix, ld_matrix);
}

void gemm_rows(int m, int n, int k, MatrixView a, Packed packed, real* c, ptrdiff_t ldc, bool accumulate) {
  gemm_rows_onto(m, n, k, a, packed, c, ldc, nullptr, accumulate ? c : nullptr, ldc);
}

size_t gemm_scratch(int n, int k) { return size_t(deepest(k)) * gemm_width(n); }

void gemm(int m, int n, int k, MatrixView a, MatrixView b, real* c, ptrdiff_t ldc, bool accumulate, real* scratch) {
  for (int block = 0; block < gemm_blocks(k); block++) {
    int k0 = gemm_block_begin(k, block), k1 = gemm_block_begin(k, block + 1);
    for (int j = 0; j < panels_of(n); j++) pack_panel(n, j, k0, k1, b, scratch + size_t(j) * gemm_microkernels().nr * (k1 - k0));
    multiply(m, n, k1 - k0, {a.data + k0 * a.cs, a.rs, a.cs}, scratch, c, ldc, nullptr, accumulate || block > 0 ? c : nullptr, ldc);
  }
}

void parallel_gemm(Context& ctx, int m, int n, int k, MatrixView a, MatrixView b, real* c, ptrdiff_t ldc, bool accumulate) {
  int panels = panels_of(n);
  if (k <= 2 * m || panels < 2 * ctx.threads() - 1) {  // cut c by rows; everyone packs a share of b, which all read
    real* packed = ctx.scratch(gemm_packed(n, k));
    parallel_for(ctx, gemm_parts(n, k), [&](size_t begin, size_t end) { gemm_pack(n, k, b, packed, begin, end); });
    parallel_for(ctx, m, [&](size_t begin, size_t end) {
      gemm_rows(int(end - begin), n, k, {a.data + begin * a.rs, a.rs, a.cs}, packed, c + begin * ldc, ldc, accumulate);
    });
  } else {  // a long sum over few outputs (a weight gradient): cut c by panels, each thread packs its own, one block of k at a time
    int nr = gemm_microkernels().nr, shares = std::min(ctx.threads(), panels);
    size_t share = gemm_scratch(ceil_div(panels, shares) * nr, k);
    real* scratch = ctx.scratch(share * shares);
    parallel_for(ctx, shares, [&](size_t begin, size_t end) {
      for (int i = int(begin); i < int(end); i++) {
        int first = cut(panels, shares, i) * nr, last = std::min(n, cut(panels, shares, i + 1) * nr);
        gemm(m, last - first, k, a, {b.data + first * b.cs, b.rs, b.cs}, c + first, ldc, accumulate, scratch + share * i);
      }
    });
  }
}

}  // namespace phx
