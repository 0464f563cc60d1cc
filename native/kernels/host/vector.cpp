// The parameter vector's arithmetic, for every precision. Bound by memory, so the compiler's own vector code is enough.
// Work is cut into blocks of 16384 values (64 KB: within the second-level cache, and enough blocks for any number of threads); a sum is
// formed per block in eight lanes of double, then over blocks in order, so that it does not depend on the number of threads.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "kernels/bf16.h"
#include "kernels/ops.h"
#include "kernels/parallel.h"
#include "kernels/shapes.h"

namespace phx {
namespace {

constexpr size_t kBlock = 16384;
constexpr size_t kSumLanes = 8;

size_t blocks(size_t count) { return ceil_div(count, kBlock); }

// body(begin, end) over whole blocks of [0, count).
template <class Body>
void for_blocks(Context& ctx, size_t count, Body body) {
  parallel_for(ctx, blocks(count), [&](size_t begin, size_t end) { body(begin * kBlock, std::min(count, end * kBlock)); });
}

// Σ a·b of one block: the product of two floats is exact in double.
double block_dot(const real* a, const real* b, size_t count) {
  double lanes[kSumLanes] = {};
  size_t i = 0;
  for (; i + kSumLanes <= count; i += kSumLanes)
    for (size_t lane = 0; lane < kSumLanes; lane++) lanes[lane] += double(a[i + lane]) * double(b[i + lane]);
  for (; i < count; i++) lanes[i % kSumLanes] += double(a[i]) * double(b[i]);
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

template <ServerKind kind>
void server_block(real* __restrict p, const real* __restrict delta, real* __restrict m, real* __restrict v, size_t count, ServerStep a) {
  const real lr = real(a.lr), beta1 = real(a.beta1), rest1 = real(1 - a.beta1), rest2 = real(1 - a.beta2), tau = real(a.tau);
  for (size_t i = 0; i < count; i++) {
    real d = delta[i];
    if constexpr (kind == ServerKind::momentum) {
      m[i] = beta1 * m[i] + d;
      p[i] += lr * m[i];
    } else {
      real square = d * d;
      m[i] += rest1 * (d - m[i]);
      if constexpr (kind == ServerKind::adam)
        v[i] += rest2 * (square - v[i]);
      else
        v[i] += rest2 * (v[i] > square ? -square : v[i] < square ? square : 0);
      p[i] += lr * m[i] / (std::sqrt(v[i]) + tau);
    }
  }
}

}  // namespace

double dot(Context& ctx, const real* a, const real* b, size_t count) {
  size_t n = blocks(count);
  double* partial = reinterpret_cast<double*>(ctx.scratch(n * sizeof(double) / sizeof(real)));
  parallel_for(ctx, n, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) partial[i] = block_dot(a + i * kBlock, b + i * kBlock, std::min(kBlock, count - i * kBlock));
  });
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += partial[i];
  return sum;
}

double sum_of_squares(Context& ctx, const real* g, size_t count) { return dot(ctx, g, g, count); }

bool all_finite(Context& ctx, const real* a, size_t count) {
  std::atomic<bool> finite = true;
  for_blocks(ctx, count, [&](size_t begin, size_t end) {
    int bad = 0;
    for (size_t i = begin; i < end; i++) bad |= !(std::abs(a[i]) <= std::numeric_limits<real>::max());
    if (bad) finite = false;
  });
  return finite;
}

void convert(Context&, Tensor y, Tensor x) {
  shapes::convert(y, x);
  std::copy_n(x.data, x.size(), y.data);
}

void add(Context& ctx, Tensor y, Tensor x) {
  shapes::add(y, x);
  axpy(ctx, y.data, x.data, 1, y.size());
}

void axpy(Context& ctx, real* y, const real* x, double a, size_t count) {
  const real factor = real(a);
  for_blocks(ctx, count, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) y[i] += factor * x[i];
  });
}

void scale(Context& ctx, real* y, double a, size_t count) {
  const real factor = real(a);
  for_blocks(ctx, count, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) y[i] *= factor;
  });
}

void subtract(Context& ctx, real* y, const real* a, const real* b, size_t count) {
  for_blocks(ctx, count, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) y[i] = a[i] - b[i];
  });
}

void round_bf16(Context& ctx, real* y, const real* x, size_t count) {
  for_blocks(ctx, count, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) y[i] = from_bf16(to_bf16(x[i]));
  });
}

void interpolate(Context& ctx, real* y, const real* x, double a, size_t count) {
  const real factor = real(a);
  for_blocks(ctx, count, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) y[i] += factor * (x[i] - y[i]);
  });
}

void proximal(Context& ctx, real* g, const real* p, const real* anchor, double mu, size_t count) {
  const real factor = real(mu);
  for_blocks(ctx, count, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) g[i] += factor * (p[i] - anchor[i]);
  });
}

void server_step(Context& ctx, real* p, const real* delta, real* m, real* v, size_t count, ServerStep a) {
  shapes::server_step(v, a);
  for_blocks(ctx, count, [&](size_t begin, size_t end) {
    if (a.kind == ServerKind::momentum)
      server_block<ServerKind::momentum>(p + begin, delta + begin, m + begin, nullptr, end - begin, a);
    else if (a.kind == ServerKind::adam)
      server_block<ServerKind::adam>(p + begin, delta + begin, m + begin, v + begin, end - begin, a);
    else
      server_block<ServerKind::yogi>(p + begin, delta + begin, m + begin, v + begin, end - begin, a);
  });
}

}  // namespace phx
