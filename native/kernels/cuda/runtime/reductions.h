// Sums over rows in a fixed order, for launchers.
#pragma once
#include <algorithm>

#include "kernels/context.h"
#include "kernels/cuda/gemm/product.cuh"
#include "kernels/tensor.h"

namespace phx {

// out (segments,C) = sums over segments of `rows` rows each of x (all,C), the last one shorter
void row_sums(Tensor out, Tensor x, size_t rows);

// Deferred reductions. The last part of a parameter's gradient is a sum over partial results that kernels have left side by side. Alone,
// such a sum is a launch that takes longer to start than to run. During a BackwardStage (device.h) sums are deferred, and one launch makes
// many.
//
// Memory for the partial results of an op, which asks once. It is the op's until it ends; they stay until they have been summed.
GradientParts gradient_parts(Context&, size_t weights, size_t biases);
// out (columns) = Σ parts (rows, columns) over rows.
void gradient_sum(Context&, real* out, const real* parts, size_t rows, size_t columns);
// At the end of an op: makes its sums, unless they are deferred.
void end_gradient_sums(Context&);
// Whether sums are deferred. Then nothing waits for the partial results either, and an op may make them on the side stream, which has
// memory of its own for them.
bool defers_reductions(Context&);

// Ranges that a sum over `count` products is cut into: enough of them to fill a GPU where the result is small, never more than 32.
inline int sum_ranges(size_t count) { return int(std::clamp<size_t>(count / 1024, 1, 32)); }
inline size_t range_size(size_t count) { return ceil_div(count, sum_ranges(count)); }

}  // namespace phx
