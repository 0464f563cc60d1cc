// C = A·B (+ C) in row-major floats with any strides of A: the matrix product under linear, convolution and attention.
#pragma once
#include "kernels/context.h"

namespace phx {

// A view of a matrix: element (i,j) at data[i·rs + j·cs].
struct MatrixView {
  const real* data;
  ptrdiff_t rs, cs;
  MatrixView transposed() const { return {data, cs, rs}; }
};

// Where a packed b lies. Of Type::bf16 both factors are rounded to that type, b when it is packed and a (whose cs must be 1) when it is
// multiplied; sums are formed in float, and c, row and matrix stay reals.
struct Packed {
  Packed(real* at, Type type = Type::real) : at(at), type(type) {}
  real* at;
  Type type;
};

// c (m,n), row stride ldc: c = a·b, or c += a·b when accumulate is set. a (m,k), b (k,n). Each element is one sum over k in a fixed order.
// `scratch` holds gemm_scratch(n, k) reals for the packed b. Runs on the calling thread alone.
size_t gemm_scratch(int n, int k);
void gemm(int m, int n, int k, MatrixView a, MatrixView b, real* c, ptrdiff_t ldc, bool accumulate, real* scratch);

// The same in pieces, for ops that go over the rows of c themselves: b packed once into gemm_packed(n, k) reals, as gemm_parts(n, k)
// independent parts; then any rows of c from it.
// A packed b is gemm_width(n) >= n columns wide, zeros from n on: c may be given so many where it has the room.
size_t gemm_packed(int n, int k);
int gemm_width(int n);
size_t gemm_parts(int n, int k);
void gemm_pack(int n, int k, MatrixView b, Packed packed, size_t first_part, size_t last_part);
void gemm_rows(int m, int n, int k, MatrixView a, Packed packed, real* c, ptrdiff_t ldc, bool accumulate);
// c = row + matrix + a·b; row (n) and matrix (m,n), which may be c, may be null.
void gemm_rows_onto(int m, int n, int k, MatrixView a, Packed packed, real* c, ptrdiff_t ldc, const real* row, const real* matrix,
                    ptrdiff_t ld_matrix);

// The same one block of k at a time, for an a that is made piece by piece: a starts at column gemm_block_begin(k, block).
constexpr int kGemmDepth = 256;  // at most so many k's a block
int gemm_blocks(int k);
int gemm_block_begin(int k, int block);
// Block 0 starts from row and matrix, as gemm_rows_onto, the others from c.
void gemm_rows_of_block(int m, int n, int k, int block, MatrixView a, Packed packed, real* c, ptrdiff_t ldc, const real* row,
                        const real* matrix, ptrdiff_t ld_matrix);

// The same on all threads of the context; scratch comes from it.
void parallel_gemm(Context&, int m, int n, int k, MatrixView a, MatrixView b, real* c, ptrdiff_t ldc, bool accumulate);

}  // namespace phx
