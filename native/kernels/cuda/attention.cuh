// Parameters of attention's kernels.
#pragma once
#include "kernels/cuda/cuda.cuh"

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

// The kernels on tensor cores (attention_flash.cu): queries of a block, and keys that are in shared memory at a time.
constexpr int kFlashThreads = 128, kFlashQueries = 64, kFlashKeys = 32;
// Shared memory of each, for heads of up to `width` channels.
constexpr unsigned flash_forward_bytes(int width) { return unsigned(kFlashQueries + 2 * kFlashKeys) * width * 2; }
constexpr unsigned flash_query_gradient_bytes(int width) { return unsigned(2 * kFlashQueries + 2 * kFlashKeys) * width * 2; }
constexpr unsigned flash_key_gradient_bytes(int width) {
  return unsigned(4 * kFlashKeys) * width * 2 + kFlashThreads * kFlashKeys / 2 * sizeof(float);  // and what pairs of warps hand each other
}

}  // namespace phx
