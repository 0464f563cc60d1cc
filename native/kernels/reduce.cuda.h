// Sums over rows in a fixed order, for launchers.
#pragma once
#include <algorithm>

#include "tensor.h"

namespace phx {

// out (segments,C) = sums over segments of `rows` rows each of x (all,C), the last one shorter
void row_sums(Tensor out, Tensor x, size_t rows);

// Ranges that a sum over `count` products is cut into: enough of them to fill a GPU where the result is small, never more than 32.
inline int sum_ranges(size_t count) { return int(std::clamp<size_t>(count / 1024, 1, 32)); }
inline size_t range_size(size_t count) { return (count + sum_ranges(count) - 1) / sum_ranges(count); }

}  // namespace phx
