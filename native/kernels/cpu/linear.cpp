// y = [x0 | x1] wᵀ + b + residual: the two inputs are two products into the same rows, whose sums start from bias and residual. dx = dy w,
// dw = dyᵀ x by the same product; db by partial sums of 256 rows, added in order.
#include <algorithm>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/simd/gemm.h"
#include "kernels/ops.h"
#include "kernels/parallel.h"
#include "kernels/shapes.h"

namespace phx {
namespace {

constexpr int kRowsAtOnce = 112;  // × 512 columns of y = 229 KB: stays in L2 from the bias to the last product
constexpr int kRowsOfSum = 256;

MatrixView view(const Tensor& t) { return {t.data, t.ld, 1}; }

}  // namespace

void linear_forward(Context& ctx, Tensor y, Tensor x0, Tensor x1, Tensor residual, Tensor w, Tensor b) {
  shapes::linear_forward(y, x0, x1, residual, w, b);
  int c1 = x1 ? x1.c : 0;
  MatrixView w0 = view(w).transposed(), w1 = view(w.channels(x0.c, c1)).transposed();
  size_t parts0 = gemm_parts(y.c, x0.c), parts1 = x1 ? gemm_parts(y.c, c1) : 0;
  real* scratch = ctx.scratch(gemm_packed(y.c, x0.c) + gemm_packed(y.c, c1));
  Packed packed0{scratch, ctx.products()}, packed1{scratch + gemm_packed(y.c, x0.c), ctx.products()};
  parallel_for(ctx, parts0 + parts1, [&](size_t begin, size_t end) {
    if (begin < parts0) gemm_pack(y.c, x0.c, w0, packed0, begin, std::min(end, parts0));
    if (end > parts0) gemm_pack(y.c, c1, w1, packed1, std::max(begin, parts0) - parts0, end - parts0);
  });
  parallel_for(ctx, y.rows(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i += kRowsAtOnce) {
      int rows = int(std::min(end - i, size_t(kRowsAtOnce)));
      gemm_rows_onto(rows, y.c, x0.c, {x0.row(i), x0.ld, 1}, packed0, y.row(i), y.ld, b.data, residual ? residual.row(i) : nullptr,
                     residual.ld);
      if (x1) gemm_rows(rows, y.c, c1, {x1.row(i), x1.ld, 1}, packed1, y.row(i), y.ld, true);
    }
  });
}

void linear_backward(Context& ctx, Grad dx0, Grad dx1, Tensor dw, Tensor db, Tensor dy, Tensor x0, Tensor x1, Tensor w) {
  shapes::linear_backward(dx0, dx1, dw, db, dy, x0, x1, w);
  int rows = int(dy.rows()), c1 = x1 ? x1.c : 0;
  if (dx0) parallel_gemm(ctx, rows, x0.c, dy.c, view(dy), view(w), dx0.t.data, dx0.t.ld, dx0.accumulate);
  if (dx1) parallel_gemm(ctx, rows, c1, dy.c, view(dy), view(w.channels(x0.c, c1)), dx1.t.data, dx1.t.ld, dx1.accumulate);
  if (dw) {
    parallel_gemm(ctx, dy.c, x0.c, rows, view(dy).transposed(), view(x0), dw.data, dw.ld, false);
    if (x1) parallel_gemm(ctx, dy.c, c1, rows, view(dy).transposed(), view(x1), dw.data + x0.c, dw.ld, false);
  }
  if (db) {
    int sums = ceil_div(rows, kRowsOfSum);
    real* partial = ctx.scratch(size_t(sums) * dy.c);
    parallel_for(ctx, sums, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; i++)
        gemm_microkernels().sum_rows(std::min(kRowsOfSum, rows - int(i) * kRowsOfSum), dy.c, dy.row(i * kRowsOfSum), dy.ld,
                                     partial + i * dy.c);
    });
    gemm_microkernels().sum_rows(sums, dy.c, partial, dy.c, db.data);
  }
}

}  // namespace phx
