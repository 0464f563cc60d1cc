// Attention over bf16 tensors on Ampere's tensor cores, without scores in global memory: a block keeps some tokens and goes over the others
// in tiles, softmax in fp32 as it goes.  Dao et al. 2022 (FlashAttention), alg. 1 and 4; the formulas are attention.ref.cpp's
// A block is four warps of 16 rows each. Heads are padded with zeros to kWidth channels. Sums have a fixed order: dq by queries, dk and dv
// by keys.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/sm80.cuh"

namespace phx {

extern __shared__ __align__(128) unsigned char attention_memory[];

constexpr int kWarps = kFlashThreads / 32;

// A tile: rows of kWidth values, the 16-byte pieces of a row permuted so that ldmatrix meets no bank twice.
template <int kWidth>
__device__ inline uint32_t piece_at(uint32_t tile, int row, int piece) {
  return tile + uint32_t(row * kWidth * 2 + ((piece ^ (row & 7)) << 4));
}

// Starts the copy of rows [first, first + kRows) of one image's tokens, channels [column, column + width); zeros outside.
template <int kWidth, int kRows>
__device__ inline void load_tile(uint32_t tile, const View& t, size_t image_row, int first, int tokens, int column, int width) {
#pragma unroll
  for (int i = 0; i < kRows * (kWidth / 8) / kFlashThreads; i++) {
    int e = int(threadIdx.x) + i * kFlashThreads, row = e / (kWidth / 8), piece = e % (kWidth / 8);
    bool inside = first + row < tokens && piece * 8 < width;
    size_t place = (image_row + first + row) * t.ld + column + piece * 8;
    sm80::copy_async(piece_at<kWidth>(tile, row, piece), t.bf16() + (inside ? place : 0), inside);
  }
}
__device__ inline void arrived() {
  sm80::copy_async_commit();
  sm80::copy_async_wait<0>();
  __syncthreads();
}

// out (16,kColumns) = rows [a_row, a_row + 16) of a · the kColumns rows of b, transposed
template <int kWidth, int kColumns>
__device__ inline void multiply_rows(float (&out)[kColumns / 8][4], uint32_t a, int a_row, uint32_t b) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (auto& block : out)
    for (float& x : block) x = 0;
#pragma unroll 4
  for (int k = 0; k < kWidth; k += 16) {
    uint32_t left[4];
    sm80::load_blocks(left, piece_at<kWidth>(a, a_row + lane % 16, k / 8 + lane / 16));
#pragma unroll
    for (int j = 0; j < kColumns / 8; j += 2) {
      uint32_t two[4];
      sm80::load_blocks(two, piece_at<kWidth>(b, 8 * j + lane / 16 * 8 + lane % 8, k / 8 + lane / 8 % 2));
      sm80::mma(out[j], left, {two[0], two[1]});
      sm80::mma(out[j + 1], left, {two[2], two[3]});
    }
  }
}

// sums (16,kColumns) += weights (16,kInner), rounded to bf16, · columns [first, first + kColumns) of b's kInner rows
template <int kWidth, int kInner, int kColumns>
__device__ inline void multiply_weights(float (&sums)[kColumns / 8][4], const float (&weights)[kInner / 8][4], uint32_t b, int first) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < kInner / 8; k += 2) {
    uint32_t left[4] = {bf16_pair(weights[k][0], weights[k][1]), bf16_pair(weights[k][2], weights[k][3]),
                        bf16_pair(weights[k + 1][0], weights[k + 1][1]), bf16_pair(weights[k + 1][2], weights[k + 1][3])};
#pragma unroll
    for (int j = 0; j < kColumns / 8; j += 2) {
      uint32_t two[4];
      sm80::load_blocks_transposed(two, piece_at<kWidth>(b, 8 * k + lane % 16, first / 8 + j + lane / 16));
      sm80::mma(sums[j], left, {two[0], two[1]});
      sm80::mma(sums[j + 1], left, {two[2], two[3]});
    }
  }
}

// Two neighbours of a row of results, if they are within the head.
__device__ inline void put_two(const View& t, size_t row, int column, int within, int width, float x0, float x1) {
  if (within >= width) return;
  BFloat16* to = t.bf16() + row * t.ld + column + within;
  *reinterpret_cast<uint32_t*>(to) = bf16_pair(x0, x1);
}

// The greatest, and the sum, over the four lanes that hold a row of results.
__device__ inline float row_most(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

// Where a block works: an image, a head, the first of its own tokens.
struct FlashPlace {
  int n, head, tokens, width, first;
  size_t image_row;
  int q, k, v, o;  // columns of the head
  __device__ FlashPlace(const View& o_like, int heads, int own) {
    n = int(blockIdx.y) / heads, head = int(blockIdx.y) % heads;
    tokens = o_like.h * o_like.w, width = o_like.c / heads, first = int(blockIdx.x) * own;
    image_row = size_t(n) * tokens;
    o = q = head * width, k = o_like.c + q, v = 2 * o_like.c + q;
  }
};

template <int kWidth>
__device__ void flash_forward(const AttentionForward& a) {
  constexpr int kTokens = kFlashQueries, kKeys = kFlashKeys;
  FlashPlace p(a.o, a.heads, kTokens);
  uint32_t queries = sm80::shared_address(attention_memory), keys = queries + kTokens * kWidth * 2, values = keys + kKeys * kWidth * 2;
  int lane = threadIdx.x % 32, own = int(threadIdx.x) / 32 * 16;
  load_tile<kWidth, kTokens>(queries, a.qkv, p.image_row, p.first, p.tokens, p.q, p.width);
  float sums[kWidth / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {};
  for (int first = 0; first < p.tokens; first += kKeys) {
    __syncthreads();  // the former tile has been read
    load_tile<kWidth, kKeys>(keys, a.qkv, p.image_row, first, p.tokens, p.k, p.width);
    load_tile<kWidth, kKeys>(values, a.qkv, p.image_row, first, p.tokens, p.v, p.width);
    arrived();
    float scores[kKeys / 8][4];
    multiply_rows<kWidth, kKeys>(scores, queries, own, keys);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float greatest = most[half];
#pragma unroll
      for (int j = 0; j < kKeys / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          float& score = scores[j][2 * half + i];
          score = first + 8 * j + lane % 4 * 2 + i < p.tokens ? score * a.scale : -INFINITY;
          greatest = fmaxf(greatest, score);
        }
      greatest = row_most(greatest);  // finite: each tile has a token
      float shrink = __expf(most[half] - greatest), sum = 0;
      most[half] = greatest;
#pragma unroll
      for (int j = 0; j < kKeys / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          float& score = scores[j][2 * half + i];
          score = __expf(score - greatest);
          sum += score;
        }
      total[half] = total[half] * shrink + row_sum(sum);
#pragma unroll
      for (int j = 0; j < kWidth / 8; j++) sums[j][2 * half] *= shrink, sums[j][2 * half + 1] *= shrink;
    }
    multiply_weights<kWidth, kKeys, kWidth>(sums, scores, values, 0);
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int token = p.first + own + lane / 4 + 8 * half;
    if (token >= p.tokens) continue;
    float factor = 1 / total[half];
#pragma unroll
    for (int j = 0; j < kWidth / 8; j++)
      put_two(a.o, p.image_row + token, p.o, 8 * j + lane % 4 * 2, p.width, sums[j][2 * half] * factor, sums[j][2 * half + 1] * factor);
    if (lane % 4 == 0) put(a.lse, p.n, p.head * p.tokens + token, most[half] + logf(total[half]));
  }
}

// delta and dq of kFlashQueries queries.
template <int kWidth>
__device__ void flash_query_gradient(const AttentionBackward& a) {
  constexpr int kTokens = kFlashQueries, kKeys = kFlashKeys;
  FlashPlace p(a.o, a.heads, kTokens);
  uint32_t queries = sm80::shared_address(attention_memory), douts = queries + kTokens * kWidth * 2;
  uint32_t keys = douts + kTokens * kWidth * 2, values = keys + kKeys * kWidth * 2;
  int lane = threadIdx.x % 32, own = int(threadIdx.x) / 32 * 16;
  load_tile<kWidth, kTokens>(queries, a.qkv, p.image_row, p.first, p.tokens, p.q, p.width);
  load_tile<kWidth, kTokens>(douts, a.d_o, p.image_row, p.first, p.tokens, p.o, p.width);

  float lse[2], delta[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int token = p.first + own + lane / 4 + 8 * half, place = p.head * p.tokens + token;
    float sum = 0;
    if (token < p.tokens)
#pragma unroll
      for (int k = 0; k < kWidth / 32; k++) {
        int d = 8 * (lane % 4 + 4 * k);
        if (d >= p.width) continue;
        Eight o = unpacked(*eight_at(a.o, p.image_row + token, p.o + d)), d_o = unpacked(*eight_at(a.d_o, p.image_row + token, p.o + d));
#pragma unroll
        for (int i = 0; i < 8; i++) sum += o.x[i] * d_o.x[i];
      }
    delta[half] = row_sum(sum);
    lse[half] = token < p.tokens ? at(a.lse, p.n, place) : INFINITY;
    if (token < p.tokens && lane % 4 == 0) a.delta[size_t(p.n) * a.heads * p.tokens + place] = delta[half];
  }
  float sums[kWidth / 8][4] = {};
  for (int first = 0; first < p.tokens; first += kKeys) {
    __syncthreads();
    load_tile<kWidth, kKeys>(keys, a.qkv, p.image_row, first, p.tokens, p.k, p.width);
    load_tile<kWidth, kKeys>(values, a.qkv, p.image_row, first, p.tokens, p.v, p.width);
    arrived();
    float scores[kKeys / 8][4], gradients[kKeys / 8][4];
    multiply_rows<kWidth, kKeys>(scores, queries, own, keys);
    multiply_rows<kWidth, kKeys>(gradients, douts, own, values);
#pragma unroll
    for (int j = 0; j < kKeys / 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        bool inside = first + 8 * j + lane % 4 * 2 + i % 2 < p.tokens;  // the weight of a key behind the last one may be infinite
        float weight = inside ? __expf(scores[j][i] * a.scale - lse[i / 2]) : 0;
        gradients[j][i] = weight * (gradients[j][i] - delta[i / 2]) * a.scale;
      }
    multiply_weights<kWidth, kKeys, kWidth>(sums, gradients, keys, 0);
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int token = p.first + own + lane / 4 + 8 * half;
    if (token >= p.tokens) continue;
#pragma unroll
    for (int j = 0; j < kWidth / 8; j++)
      put_two(a.dqkv, p.image_row + token, p.q, 8 * j + lane % 4 * 2, p.width, sums[j][2 * half], sums[j][2 * half + 1]);
  }
}

// dk and dv of kFlashKeys keys, after the queries' kernel. Two warps share 16 keys, each has half the channels of the results.
template <int kWidth>
__device__ void flash_key_gradient(const AttentionBackward& a) {
  constexpr int kTokens = kFlashKeys, kTile = kFlashKeys;
  static_assert(kTokens * 2 == 16 * kWarps);
  FlashPlace p(a.o, a.heads, kTokens);
  uint32_t keys = sm80::shared_address(attention_memory), values = keys + kTokens * kWidth * 2;
  uint32_t queries = values + kTokens * kWidth * 2, douts = queries + kTile * kWidth * 2;
  int lane = threadIdx.x % 32, warp = int(threadIdx.x) / 32, own = warp % 2 * 16, column = warp / 2 * (kWidth / 2);
  load_tile<kWidth, kTokens>(keys, a.qkv, p.image_row, p.first, p.tokens, p.k, p.width);
  load_tile<kWidth, kTokens>(values, a.qkv, p.image_row, p.first, p.tokens, p.v, p.width);
  float dk[kWidth / 16][4] = {}, dv[kWidth / 16][4] = {};
  for (int first = 0; first < p.tokens; first += kTile) {
    __syncthreads();
    load_tile<kWidth, kTile>(queries, a.qkv, p.image_row, first, p.tokens, p.q, p.width);
    load_tile<kWidth, kTile>(douts, a.d_o, p.image_row, first, p.tokens, p.o, p.width);
    arrived();
    // Of the two that share keys one multiplies for the weights and one for their gradients, and each gets the other's.
    float weights[kTile / 8][4], gradients[kTile / 8][4];
    bool for_weights = warp < 2;
    multiply_rows<kWidth, kTile>(weights, for_weights ? keys : values, own, for_weights ? queries : douts);
    float4* exchanged = reinterpret_cast<float4*>(attention_memory + 4 * kTile * kWidth * 2) + warp % 2 * 2 * 32 * (kTile / 8) + lane;
#pragma unroll
    for (int j = 0; j < kTile / 8; j++)
      exchanged[(warp / 2 * (kTile / 8) + j) * 32] = {weights[j][0], weights[j][1], weights[j][2], weights[j][3]};
    sm80::named_barrier(1 + uint32_t(warp % 2), 64);
#pragma unroll
    for (int j = 0; j < kTile / 8; j++) {
      float4 other = exchanged[((1 - warp / 2) * (kTile / 8) + j) * 32];
      const float others[4] = {other.x, other.y, other.z, other.w};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        gradients[j][i] = for_weights ? others[i] : weights[j][i];
        weights[j][i] = for_weights ? weights[j][i] : others[i];
      }
    }
#pragma unroll
    for (int j = 0; j < kTile / 8; j++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        int query = first + 8 * j + lane % 4 * 2 + i, place = p.head * p.tokens + query;
        bool inside = query < p.tokens;
        float lse = inside ? at(a.lse, p.n, place) : INFINITY;
        float delta = inside ? a.delta[size_t(p.n) * a.heads * p.tokens + place] : 0;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float& weight = weights[j][2 * half + i];
          weight = __expf(weight * a.scale - lse);
          gradients[j][2 * half + i] = weight * (gradients[j][2 * half + i] - delta) * a.scale;
        }
      }
    multiply_weights<kWidth, kTile, kWidth / 2>(dv, weights, douts, column);
    multiply_weights<kWidth, kTile, kWidth / 2>(dk, gradients, queries, column);
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int token = p.first + own + lane / 4 + 8 * half;
    if (token >= p.tokens) continue;
#pragma unroll
    for (int j = 0; j < kWidth / 16; j++) {
      int within = column + 8 * j + lane % 4 * 2;
      put_two(a.dqkv, p.image_row + token, p.k, within, p.width, dk[j][2 * half], dk[j][2 * half + 1]);
      put_two(a.dqkv, p.image_row + token, p.v, within, p.width, dv[j][2 * half], dv[j][2 * half + 1]);
    }
  }
}

// ---- kernels: heads of up to 64, 128 and 256 channels

#define PHOENIX_FLASH_KERNELS(width)                                                                                       \
  extern "C" __global__ void __launch_bounds__(kFlashThreads) flash_forward_##width##_kernel(AttentionForward a) {         \
    begin_kernel();                                                                                                        \
    flash_forward<width>(a);                                                                                               \
  }                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(kFlashThreads) flash_query_gradient_##width##_kernel(AttentionBackward a) { \
    begin_kernel();                                                                                                        \
    flash_query_gradient<width>(a);                                                                                        \
  }                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(kFlashThreads) flash_key_gradient_##width##_kernel(AttentionBackward a) {   \
    begin_kernel();                                                                                                        \
    flash_key_gradient<width>(a);                                                                                          \
  }
PHOENIX_FLASH_KERNELS(64)
PHOENIX_FLASH_KERNELS(128)
PHOENIX_FLASH_KERNELS(256)

}  // namespace phx
