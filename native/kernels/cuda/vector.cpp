// Launchers of the parameter vector's arithmetic.
#include "kernels/cuda/vector.cuh"

#include <vector>

#include "kernels/cuda/runtime/launch.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {
namespace {

const Kernel<VectorUpdate> axpy_kernel("axpy_kernel"), scale_kernel("scale_kernel"), subtract_kernel("subtract_kernel"),
    round_bf16_kernel("round_bf16_kernel"), interpolate_kernel("interpolate_kernel"), proximal_kernel("proximal_kernel");
const Kernel<ElementUpdate> convert_kernel("convert_kernel"), add_kernel("add_kernel"), add_eights_kernel("add_eights_kernel");
const Kernel<VectorSum> dot_kernel("dot_kernel"), all_finite_kernel("all_finite_kernel");
const Kernel<ServerUpdate> server_step_kernel("server_step_kernel");

double total(Context& ctx, const Kernel<VectorSum>& kernel, const real* a, const real* b, size_t count) {
  std::vector<double> partial(ceil_div(count, kSumBlock));
  double* place = reinterpret_cast<double*>(ctx.scratch(partial.size() * 2));
  kernel({partial.size()}, kElementThreads, {place, a, b, count});
  device_get(partial.data(), place, partial.size() * sizeof(double));
  double sum = 0;
  for (double part : partial) sum += part;
  return sum;
}

}  // namespace

double dot(Context& ctx, const real* a, const real* b, size_t count) { return total(ctx, dot_kernel, a, b, count); }
double sum_of_squares(Context& ctx, const real* g, size_t count) { return dot(ctx, g, g, count); }
bool all_finite(Context& ctx, const real* a, size_t count) { return total(ctx, all_finite_kernel, a, nullptr, count) == 0; }

void convert(Context&, Tensor y, Tensor x) {
  shapes::convert(y, x);
  convert_kernel(cover(y.size()), kElementThreads, {view(y), view(x)});
}
void add(Context&, Tensor y, Tensor x) {
  shapes::add(y, x);
  if (is_aligned_bf16(y) && is_aligned_bf16(x))
    add_eights_kernel(cover(y.size() / 8), kElementThreads, {view(y), view(x)});
  else
    add_kernel(cover(y.size()), kElementThreads, {view(y), view(x)});
}

void axpy(Context&, real* y, const real* x, double a, size_t count) {
  axpy_kernel(cover(count), kElementThreads, {y, x, nullptr, real(a), count});
}
void scale(Context&, real* y, double a, size_t count) {
  scale_kernel(cover(count), kElementThreads, {y, nullptr, nullptr, real(a), count});
}
void subtract(Context&, real* y, const real* a, const real* b, size_t count) {
  subtract_kernel(cover(count), kElementThreads, {y, a, b, 0, count});
}
void round_bf16(Context&, real* y, const real* x, size_t count) {
  round_bf16_kernel(cover(count), kElementThreads, {y, x, nullptr, 0, count});
}
void interpolate(Context&, real* y, const real* x, double a, size_t count) {
  interpolate_kernel(cover(count), kElementThreads, {y, x, nullptr, real(a), count});
}
void proximal(Context&, real* g, const real* p, const real* anchor, double mu, size_t count) {
  proximal_kernel(cover(count), kElementThreads, {g, p, anchor, real(mu), count});
}

void server_step(Context&, real* p, const real* delta, real* m, real* v, size_t count, ServerStep a) {
  shapes::server_step(v, a);
  server_step_kernel(cover(count), kElementThreads,
                     {p, delta, m, v, count, a.kind, real(a.lr), real(a.beta1), real(1 - a.beta1), real(1 - a.beta2), real(a.tau)});
}

}  // namespace phx
