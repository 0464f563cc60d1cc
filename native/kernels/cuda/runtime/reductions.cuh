// Sums over rows in a fixed order: what parameter gradients are gathered with. Not an op: a means of several.
#pragma once
#include "kernels/cuda/cuda.cuh"

namespace phx {

// out[s][c] = Σ x[s·rows + r][c] over r < rows, for each segment s; the last segment may be shorter.
struct RowSums {
  View out, x;
  size_t rows, all;
};

// Many sums of one segment each in a launch: out[c] = Σ x[r][c] over rows, x (rows, columns).
struct Sum {
  float* out;
  const float* x;
  unsigned rows, columns, first_block;
};
constexpr int kMaxSums = 100;  // in a launch's parameters, 4 KiB
struct Sums {
  int count;
  Sum sum[kMaxSums];
};
// Warps of a block that share 32 columns; of few rows each warp has columns of its own.
constexpr unsigned sum_warps(unsigned rows) { return rows < 32 ? 1 : 8; }
constexpr unsigned sum_blocks(unsigned rows, unsigned columns) {
  unsigned of_block = 32 * 8 / sum_warps(rows);
  return ceil_div(columns, of_block);
}

}  // namespace phx
