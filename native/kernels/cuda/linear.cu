// y = [x0 | x1] wᵀ + b + residual and its gradients dx = dy w, dw = dyᵀ [x0 | x1], by the tiled product.
#include "kernels/cuda/linear.cuh"

namespace phx {

struct JoinedRows {
  View x0, x1;
  __device__ int row(int m) const { return m; }
  __device__ float at(int m, int k) const { return joined(x0, x1, m, k); }
};
struct Rows {
  View x;
  __device__ int row(int m) const { return m; }
  __device__ float at(int m, int k) const { return phx::at(x, m, k); }
};
struct Columns {
  View x;
  __device__ int row(int m) const { return m; }
  __device__ float at(int m, int k) const { return phx::at(x, k, m); }
};
// And after them a column of ones.
struct JoinedColumns {
  View x0, x1;
  int columns;
  __device__ int row(int m) const { return m; }
  __device__ float at(int m, int k) const { return m == columns ? 1 : joined(x0, x1, k, m); }
};

extern "C" __global__ void __launch_bounds__(kThreads) linear_forward_kernel(LinearForward a) {
  begin_kernel();
  product(a.size, JoinedRows{a.x0, a.x1}, Rows{a.w}, [&](int, int m, int n, float sum) {
    if (a.b.data) sum += a.b.data[n];
    if (a.residual.data) sum += at(a.residual, m, n);
    put(a.y, m, n, sum);
  });
}

extern "C" __global__ void __launch_bounds__(kThreads) linear_input_gradient_kernel(LinearInputGradient a) {
  begin_kernel();
  product(a.size, Rows{a.dy}, Columns{a.w}, [&](int, int m, int n, float sum) {
    if (n < a.split) {
      if (a.dx0.t.data) write(a.dx0, m, n, sum);
    } else if (a.dx1.t.data) {
      write(a.dx1, m, n - a.split, sum);
    }
  });
}

extern "C" __global__ void __launch_bounds__(kThreads) linear_weight_gradient_kernel(LinearWeightGradient a) {
  begin_kernel();
  int columns = a.x0.c + (a.x1.data ? a.x1.c : 0);
  product(a.size, Columns{a.dy}, JoinedColumns{a.x0, a.x1, columns},
          [&](int range, int m, int n, float sum) { put_part(a.parts, range, a.size.m, columns, m, n, sum); });
}

}  // namespace phx
