// Sums over rows in a fixed order: what parameter gradients are gathered with. Not an op: a means of several.
#pragma once
#include "cuda.cuh"

namespace phx {

// out[s][c] = Σ x[s·rows + r][c] over r < rows, for each segment s; the last segment may be shorter.
struct RowSums {
  View out, x;
  size_t rows, all;
};

}  // namespace phx
