// C = A·B (+ C) in row-major floats with any strides of A: the matrix product under linear, convolution and attention.
#pragma once
#include "context.h"

namespace phx {

// A view of a matrix: element (i,j) at data[i·rs + j·cs].
struct MatrixView {
  const real* data;
  ptrdiff_t rs, cs;
  MatrixView transposed() const { return {data, cs, rs}; }
};

// c (m,n), row stride ldc: c = a·b, or c += a·b when accumulate is set. a (m,k), b (k,n). Each element is one sum over k in a fixed order.
// `scratch` holds gemm_scratch(n, k) reals for the packed b. Runs on the calling thread alone.
size_t gemm_scratch(int n, int k);
void gemm(int m, int n, int k, MatrixView a, MatrixView b, real* c, ptrdiff_t ldc, bool accumulate, real* scratch);

// The same on all threads of the context; scratch comes from it.
void parallel_gemm(Context&, int m, int n, int k, MatrixView a, MatrixView b, real* c, ptrdiff_t ldc, bool accumulate);

}  // namespace phx
