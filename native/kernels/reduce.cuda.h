// Sums over rows in a fixed order, for launchers.
#pragma once
#include <algorithm>

#include "context.h"
#include "product.cuh"
#include "tensor.h"

namespace phx {

// out (segments,C) = sums over segments of `rows` rows each of x (all,C), the last one shorter
void row_sums(Tensor out, Tensor x, size_t rows);

// The last part of a parameter's gradient: its sum over parts that lie side by side, made by kernels before. Alone such a sum is a launch
// that takes longer to start than to run; while a GradientSums (ops.h) lives they are put off, and one launch makes many.
//
// Memory for the parts of an op, which asks once. It is the op's until it ends; the parts stay until they have been summed.
GradientParts gradient_parts(Context&, size_t weights, size_t biases);
// out (columns) = Σ parts (rows, columns) over rows.
void gradient_sum(Context&, real* out, const real* parts, size_t rows, size_t columns);
// At the end of an op: makes its sums, unless they are put off.
void end_gradient_sums(Context&);
// Whether sums are put off, and with them whatever else only they wait for: then an op may make the parts beside the stream
// (beside.cuda.h), where they are apart from the others'.
bool puts_off(Context&);

// Ranges that a sum over `count` products is cut into: enough of them to fill a GPU where the result is small, never more than 32.
inline int sum_ranges(size_t count) { return int(std::clamp<size_t>(count / 1024, 1, 32)); }
inline size_t range_size(size_t count) { return (count + sum_ranges(count) - 1) / sum_ranges(count); }

}  // namespace phx
