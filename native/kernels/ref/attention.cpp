// The definition of attention: for each image and head s = q kᵀ/√D, p = softmax(s), o = p v; backward by
// dv = pᵀ do, dp = do vᵀ, ds = p ∘ (dp - Σ_j p dp), dq = ds k/√D, dk = dsᵀ q/√D.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {
namespace {

struct Head {
  Tensor q, k, v;  // the image's rows are [first, first + tokens)
  size_t first;
  int tokens, width;
};

Head head(const Tensor& qkv, int heads, int n, int h) {
  int channels = qkv.c / 3, width = channels / heads, tokens = qkv.h * qkv.w;
  return {qkv.channels(h * width, width),
          qkv.channels(channels + h * width, width),
          qkv.channels(2 * channels + h * width, width),
          size_t(n) * tokens,
          tokens,
          width};
}

real score(const Head& a, int i, int j) {
  real sum = 0;
  for (int d = 0; d < a.width; d++) sum += a.q.row(a.first + i)[d] * a.k.row(a.first + j)[d];
  return sum / std::sqrt(real(a.width));
}

}  // namespace

void attention_forward(Context&, Tensor o, Tensor lse, Tensor qkv, int heads) {
  shapes::attention_forward(o, lse, qkv, heads);
  for (int n = 0; n < o.n; n++)
    for (int h = 0; h < heads; h++) {
      Head a = head(qkv, heads, n, h);
      std::vector<real> p(a.tokens);
      for (int i = 0; i < a.tokens; i++) {
        real most = -INFINITY, total = 0;
        for (int j = 0; j < a.tokens; j++) p[j] = score(a, i, j), most = std::max(most, p[j]);
        for (int j = 0; j < a.tokens; j++) total += std::exp(p[j] - most);
        real l = most + std::log(total);
        lse.row(n)[h * a.tokens + i] = l;
        for (int d = 0; d < a.width; d++) {
          real sum = 0;
          for (int j = 0; j < a.tokens; j++) sum += std::exp(p[j] - l) * a.v.row(a.first + j)[d];
          o.row(a.first + i)[h * a.width + d] = sum;
        }
      }
    }
}

void attention_backward(Context&, Tensor dqkv, Tensor d_o, Tensor lse, Tensor qkv, Tensor o, int heads) {
  shapes::attention_backward(dqkv, d_o, lse, qkv, o, heads);
  for (size_t i = 0; i < dqkv.rows(); i++)
    for (int c = 0; c < dqkv.c; c++) dqkv.row(i)[c] = 0;
  for (int n = 0; n < o.n; n++)
    for (int h = 0; h < heads; h++) {
      Head a = head(qkv, heads, n, h), g = head(dqkv, heads, n, h);
      for (int i = 0; i < a.tokens; i++) {
        const real* out = o.row(a.first + i) + h * a.width;
        const real* dout = d_o.row(a.first + i) + h * a.width;
        real mean = 0;  // Σ_j p_ij dp_ij = Σ_d o_id do_id
        for (int d = 0; d < a.width; d++) mean += out[d] * dout[d];
        for (int j = 0; j < a.tokens; j++) {
          real p = std::exp(score(a, i, j) - lse.row(n)[h * a.tokens + i]), dp = 0;
          for (int d = 0; d < a.width; d++) dp += dout[d] * a.v.row(a.first + j)[d];
          real ds = p * (dp - mean) / std::sqrt(real(a.width));
          for (int d = 0; d < a.width; d++) {
            g.v.row(a.first + j)[d] += p * dout[d];
            g.q.row(a.first + i)[d] += ds * a.k.row(a.first + j)[d];
            g.k.row(a.first + j)[d] += ds * a.q.row(a.first + i)[d];
          }
        }
      }
    }
}

}  // namespace phx
