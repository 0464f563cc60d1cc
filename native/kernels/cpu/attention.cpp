// o = softmax(q kᵀ / √D) v, 56 rows of scores at a time (56 × 256 floats = 57 KB, in L2); only the log-sum-exp of each row is kept, from
// which backward makes the same probabilities again (Dao et al. 2022, §3.1):
// dv = pᵀ do, dp = do vᵀ, ds = p ∘ (dp - Σ_d o do)/√D, dq = ds k, dk = dsᵀ q.
// Rows of scores are products of whole vectors, zeros past the tokens (`columns`): the product's own right edge costs a copy.
// Tasks: (image, head, rows) forward, (image, head) backward, because dk and dv are sums over the rows, added in order.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/simd/attention.h"
#include "kernels/ops.h"
#include "kernels/parallel.h"
#include "kernels/shapes.h"

namespace phx {
namespace {

constexpr int kRowsAtOnce = 56;  // four register tiles of 14

size_t aligned(size_t count) { return round_up(count, 16); }

// One head of one image: pointers to row 0, `ld` apart.
struct Head {
  real *q, *k, *v;
  int tokens, width, ld;
  MatrixView view(const real* at) const { return {at, ld, 1}; }
};

Head head_of(const Tensor& qkv, int heads, size_t n, int h) {
  int channels = qkv.c / 3, width = channels / heads, tokens = qkv.h * qkv.w;
  real* row = qkv.row(n * tokens) + h * width;
  return {row, row + channels, row + 2 * channels, tokens, width, qkv.ld};
}

void pack(int n, int k, MatrixView b, Packed packed) { gemm_pack(n, k, b, packed, 0, gemm_parts(n, k)); }

}  // namespace

void attention_forward(Context& ctx, Tensor o, Tensor lse, Tensor qkv, int heads) {
  shapes::attention_forward(o, lse, qkv, heads);
  int tokens = o.h * o.w, width = o.c / heads, cuts = ceil_div(tokens, kRowsAtOnce), ld = int(aligned(tokens)),
      columns = std::min(ld, gemm_width(tokens));
  float scale = float(1 / std::sqrt(double(width)));
  size_t keys = aligned(gemm_packed(tokens, width)), values = aligned(gemm_packed(width, tokens));
  size_t share = keys + values + size_t(kRowsAtOnce) * ld, tasks = size_t(o.n) * heads * cuts, threads = ctx.threads();
  real* scratch = ctx.scratch(share * threads);
  parallel_for(ctx, threads, [&](size_t begin, size_t end) {
    for (size_t thread = begin; thread < end; thread++) {
      real *at = scratch + thread * share, *scores = at + keys + values;
      Packed packed_k{at, ctx.products()}, packed_v{at + keys, ctx.products()};
      size_t first = tasks * thread / threads, last = tasks * (thread + 1) / threads;
      for (size_t task = first; task < last; task++) {
        size_t n = task / cuts / heads;
        int h = int(task / cuts % heads), i = int(task % cuts) * kRowsAtOnce, rows = std::min(kRowsAtOnce, tokens - i);
        Head a = head_of(qkv, heads, n, h);
        real share_of[kRowsAtOnce];
        if (task == first || i == 0) {
          pack(tokens, width, a.view(a.k).transposed(), packed_k);
          pack(width, tokens, a.view(a.v), packed_v);
        }
        gemm_rows(rows, columns, width, a.view(a.q + size_t(i) * a.ld), packed_k, scores, ld, false);
        attention_microkernels().exponentials(rows, tokens, scale, scores, ld, lse.row(n) + h * tokens + i, share_of);
        real* out = o.row(n * tokens + i) + h * width;
        gemm_rows(rows, width, tokens, {scores, ld, 1}, packed_v, out, o.ld, false);
        attention_microkernels().scale_rows(rows, width, share_of, out, o.ld);
      }
    }
  });
}

void attention_backward(Context& ctx, Tensor dqkv, Tensor d_o, Tensor lse, Tensor qkv, Tensor o, int heads) {
  shapes::attention_backward(dqkv, d_o, lse, qkv, o, heads);
  int tokens = o.h * o.w, width = o.c / heads, ld = int(aligned(tokens)), columns = std::min(ld, gemm_width(tokens));
  float scale = float(1 / std::sqrt(double(width)));
  size_t across = aligned(gemm_packed(tokens, width)), along = aligned(gemm_packed(width, tokens));
  size_t block = aligned(gemm_scratch(width, kRowsAtOnce)), scores = size_t(kRowsAtOnce) * ld;
  size_t share = 2 * across + along + block + 2 * scores + kRowsAtOnce, tasks = size_t(o.n) * heads, threads = ctx.threads();
  real* scratch = ctx.scratch(share * threads);
  parallel_for(ctx, threads, [&](size_t begin, size_t end) {
    for (size_t thread = begin; thread < end; thread++) {
      real *packed_kt = scratch + thread * share, *packed_vt = packed_kt + across, *packed_k = packed_vt + across;
      real *packed = packed_k + along, *p = packed + block, *dp = p + scores, *mean = dp + scores;
      for (size_t task = tasks * thread / threads; task < tasks * (thread + 1) / threads; task++) {
        size_t n = task / heads;
        int h = int(task % heads);
        Head a = head_of(qkv, heads, n, h), g = head_of(dqkv, heads, n, h);
        pack(tokens, width, a.view(a.k).transposed(), packed_kt);
        pack(tokens, width, a.view(a.v).transposed(), packed_vt);
        pack(width, tokens, a.view(a.k), packed_k);
        for (int i = 0; i < tokens; i += kRowsAtOnce) {
          int rows = std::min(kRowsAtOnce, tokens - i);
          const real *q = a.q + size_t(i) * a.ld, *out = o.row(n * tokens + i) + h * width, *dout = d_o.row(n * tokens + i) + h * width;
          for (int j = 0; j < rows; j++) mean[j] = attention_microkernels().dot(width, out + size_t(j) * o.ld, dout + size_t(j) * d_o.ld);
          gemm_rows(rows, columns, width, a.view(q), packed_kt, p, ld, false);
          attention_microkernels().probabilities(rows, tokens, scale, p, ld, lse.row(n) + h * tokens + i);
          gemm(tokens, width, rows, {p, 1, ld}, {dout, d_o.ld, 1}, g.v, g.ld, i > 0, packed);
          gemm_rows(rows, columns, width, {dout, d_o.ld, 1}, packed_vt, dp, ld, false);
          attention_microkernels().score_gradient(rows, tokens, scale, p, dp, ld, mean);
          gemm_rows(rows, width, tokens, {dp, ld, 1}, packed_k, g.q + size_t(i) * g.ld, g.ld, false);
          gemm(tokens, width, rows, {dp, 1, ld}, a.view(q), g.k, g.ld, i > 0, packed);
        }
      }
    }
  });
}

}  // namespace phx
