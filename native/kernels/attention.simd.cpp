// Rows of scores: softmax with its log-sum-exp, probabilities out of a saved log-sum-exp, and the gradient of the scores.
#include "attention_leaves.h"
#include "vec.h"

namespace phx {
namespace PHOENIX_ISA {
namespace {

constexpr float kNothing = -1e30f;  // a score that weighs nothing, but stays finite when it is scaled

void softmax(int rows, int t, float scale, float* s, ptrdiff_t ld, float* lse) {
  for (int i = 0; i < rows; i++, s += ld) {
    for (int j = t; j % kLanes; j++) s[j] = kNothing;
    Vec most = set1(kNothing);
    for (int j = 0; j < t; j += kLanes) most = vmax(most, load(s + j));
    float lanes[kLanes];
    store(lanes, most);
    float peak = lanes[0];
    for (int j = 1; j < kLanes; j++) peak = lanes[j] > peak ? lanes[j] : peak;
    Vec total{};
    for (int j = 0; j < t; j += kLanes) {
      Vec p = vexp((load(s + j) - peak) * scale);
      total += p;
      store(s + j, p);
    }
    float whole = sum(total), share = 1 / whole;
    for (int j = 0; j < t; j += kLanes) store(s + j, load(s + j) * share);
    lse[i] = peak * scale + __builtin_logf(whole);
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

extern const AttentionLeaves attention_leaves_table;
const AttentionLeaves attention_leaves_table = {softmax, probabilities, score_gradient, dot};

}  // namespace PHOENIX_ISA
}  // namespace phx
