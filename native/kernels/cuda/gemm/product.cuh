// The tiled matrix product that linear and conv2d are made of: out(m,n) = Σ_k a(m,k)·b(n,k), a block for a tile of 64x64, a thread for 4x4
// of it, 16 k at a time through shared memory. Operands are functors: `a.row(m)` is what can be known of a row ahead, `a.at(row, k)` its
// value at k. blockIdx.z cuts k into ranges of `k_step`; the store functor gets the range's number and puts partial results side by side.
#pragma once
#include "kernels/cuda/cuda.cuh"

namespace phx {

constexpr int kTile = 64, kDepth = 16;

struct ProductSize {
  int m, n, k, k_step;
};

// Where a weights' gradient goes, in parts that are sums over a range of pixels each: (ranges, K, columns), and (ranges, K) for the biases,
// which is as if there were one more column, of ones. Null: no biases.
struct GradientParts {
  float *weights, *biases;
};

#ifdef __CUDACC__

template <class A, class B, class Store>
__device__ void product(ProductSize size, A a, B b, Store store) {
  __shared__ float as[kDepth][kTile + 1], bs[kDepth][kTile + 1];
  int first_m = blockIdx.x * kTile, first_n = blockIdx.y * kTile, thread = threadIdx.x;
  int begin = blockIdx.z * size.k_step, end = min(size.k, begin + size.k_step);
  int column = thread % kDepth, line = thread / kDepth;  // what this thread loads: k = column, rows line + 16·i
  decltype(a.row(0)) a_rows[4];
  decltype(b.row(0)) b_rows[4];
  for (int i = 0; i < 4; i++) {
    a_rows[i] = a.row(min(first_m + line + 16 * i, size.m - 1));
    b_rows[i] = b.row(min(first_n + line + 16 * i, size.n - 1));
  }
  int row = thread / 16, col = thread % 16;  // of the results: rows row + 16·i, columns col + 16·j
  float sums[4][4] = {};
  for (int k = begin; k < end; k += kDepth) {
    bool inside = k + column < end;
    for (int i = 0; i < 4; i++) {
      as[column][line + 16 * i] = inside && first_m + line + 16 * i < size.m ? a.at(a_rows[i], k + column) : 0;
      bs[column][line + 16 * i] = inside && first_n + line + 16 * i < size.n ? b.at(b_rows[i], k + column) : 0;
    }
    __syncthreads();
    for (int d = 0; d < kDepth; d++)
      for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) sums[i][j] += as[d][row + 16 * i] * bs[d][col + 16 * j];
    __syncthreads();
  }
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++) {
      int m = first_m + row + 16 * i, n = first_n + col + 16 * j;
      if (m < size.m && n < size.n) store(blockIdx.z, m, n, sums[i][j]);
    }
}

// For products whose last column, at n = columns, is that of the ones.
__device__ inline void put_part(const GradientParts& parts, int range, int rows, int columns, int m, int n, float sum) {
  size_t row = size_t(range) * rows + m;
  if (n < columns)
    parts.weights[row * columns + n] = sum;
  else
    parts.biases[row] = sum;
}

#endif

}  // namespace phx
