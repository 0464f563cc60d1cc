// Rows of scores: the exponentials of softmax with their log-sum-exp, probabilities out of a saved log-sum-exp, and the gradient of the
// scores.
#include "kernels/cpu/simd/attention.h"
#include "kernels/cpu/simd/vec.h"

namespace phx {
namespace PHOENIX_ISA {
namespace {

constexpr float kNothing = -1e30f;  // a score that weighs nothing, but stays finite when it is scaled

PHX_INLINE float largest(Vec v) {
  float t[kLanes];
  store(t, v);
  for (int w = kLanes / 2; w; w /= 2)
    for (int i = 0; i < w; i++) t[i] = t[i] > t[i + w] ? t[i] : t[i + w];
  return t[0];
}

// Rows go four at a time: each waits for its largest score and for its sum, which go across the lanes.
template <int R>
PHX_INLINE void exponentials_of(int t, float scale, float* s, ptrdiff_t ld, float* lse, float* share) {
  Vec most[R], total[R];
  float peak[R];
  for (int i = 0; i < R; i++) {
    for (int j = t; j % kLanes; j++) s[i * ld + j] = kNothing;
    most[i] = set1(kNothing), total[i] = Vec{};
  }
  for (int j = 0; j < t; j += kLanes)
    for (int i = 0; i < R; i++) most[i] = vmax(most[i], load(s + i * ld + j));
  for (int i = 0; i < R; i++) peak[i] = largest(most[i]);
  for (int j = 0; j < t; j += kLanes)
    for (int i = 0; i < R; i++) {
      Vec p = vexp((load(s + i * ld + j) - peak[i]) * scale);
      total[i] += p;
      store(s + i * ld + j, p);
    }
  for (int i = 0; i < R; i++) {
    float whole = sum(total[i]);
    share[i] = 1 / whole, lse[i] = peak[i] * scale + __builtin_logf(whole);
  }
}

void exponentials(int rows, int t, float scale, float* s, ptrdiff_t ld, float* lse, float* share) {
  int i = 0;
  for (; i + 4 <= rows; i += 4) exponentials_of<4>(t, scale, s + i * ld, ld, lse + i, share + i);
  for (; i < rows; i++) exponentials_of<1>(t, scale, s + i * ld, ld, lse + i, share + i);
}

void scale_rows(int rows, int n, const float* factor, float* x, ptrdiff_t ld) {
  for (int i = 0; i < rows; i++, x += ld) {
    int j = 0;
    for (; j + kLanes <= n; j += kLanes) store(x + j, load(x + j) * factor[i]);
    for (; j < n; j++) x[j] *= factor[i];
  }
}

void probabilities(int rows, int t, float scale, float* s, ptrdiff_t ld, const float* lse) {
  for (int i = 0; i < rows; i++, s += ld)
    for (int j = 0; j < t; j += kLanes) store(s + j, vexp(load(s + j) * scale - lse[i]));
}

void score_gradient(int rows, int t, float scale, const float* p, float* dp, ptrdiff_t ld, const float* mean) {
  for (int i = 0; i < rows; i++, p += ld, dp += ld)
    for (int j = 0; j < t; j += kLanes) store(dp + j, load(p + j) * (load(dp + j) - mean[i]) * scale);
}

float dot(int count, const float* a, const float* b) {
  Vec lanes{};
  int j = 0;
  for (; j + kLanes <= count; j += kLanes) lanes += load(a + j) * load(b + j);
  float total = sum(lanes);
  for (; j < count; j++) total += a[j] * b[j];
  return total;
}

}  // namespace

extern const AttentionMicrokernels attention_microkernels_table;
const AttentionMicrokernels attention_microkernels_table = {exponentials, scale_rows, probabilities, score_gradient, dot};

}  // namespace PHOENIX_ISA
}  // namespace phx
