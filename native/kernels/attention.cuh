// Parameters of attention's kernels.
#pragma once
#include "cuda.cuh"

namespace phx {

struct AttentionForward {
  View o, lse, qkv;
  int heads;
  float scale;  // 1/√D
};
struct AttentionBackward {
  View dqkv, d_o, lse, qkv, o;
  float* delta;  // (N,heads·T): Σ_d o·do of each query
  int heads;
  float scale;
};

}  // namespace phx
