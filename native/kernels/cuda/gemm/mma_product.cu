// Matrix products of bf16 with fp32 sums on mma.sync, the operands gathered by cp.async through a ring of kMmaStages steps in shared
// memory: convolutions (implicit GEMM), linear layers, the gradients of their inputs, and, with the sum over pixels cut into ranges, of
// their weights.
//
// A tile in shared memory is "along" (a row of results, 32 k: 64 bytes) or "across" (a k, all rows of results), as its values lie in global
// memory; the latter are transposed by ldmatrix. 16-byte pieces are permuted within a row so that neither copies nor ldmatrix conflict over
// banks.
#include "kernels/cuda/gemm/mma_product.cuh"
#include "kernels/cuda/sm80.cuh"

namespace phx {

extern __shared__ __align__(128) unsigned char shared_memory[];

// Byte offsets of piece `piece` (16 bytes) of a row.
__device__ inline uint32_t along(int row, int piece) { return uint32_t(row * 64 + ((piece ^ (row >> 1 & 3)) << 4)); }
template <int kTile>
__device__ inline uint32_t across(int k, int piece) {
  return uint32_t(k * kTile * 2 + ((piece ^ (k & 7)) << 4));
}

template <int kTile>
struct Tile {
  static constexpr int kThreads = mma_threads(kTile), kBytes = kTile * kMmaDepth * 2, kWarpRows = kTile / 2, kWarpColumns = 32;
  static constexpr int kBlockRows = kWarpRows / 16, kBlockColumns = kWarpColumns / 8;  // of 16x8 results in a warp's part
  static constexpr int kPieces = kTile * kMmaDepth / 8 / kThreads;                     // that a thread copies of each operand: 2
  static constexpr int kPairs = kTile / 2, kParts = kThreads / kPairs;  // of row_sums: a thread has two rows, and every kParts-th k
  float sums[kBlockRows][kBlockColumns][4] = {}, row_sums[2] = {};

  __device__ static int warp_row() { return int(threadIdx.x) / 32 % 2 * kWarpRows; }
  __device__ static int warp_column() { return int(threadIdx.x) / 64 * kWarpColumns; }
  // What a thread copies: piece i of an "along" tile is (row, piece) and of an "across" tile (k, piece).
  __device__ static int along_row(int i) { return int(threadIdx.x) / 4 + i * (kThreads / 4); }
  __device__ static int along_piece() { return int(threadIdx.x) % 4; }
  __device__ static int across_k(int i) { return int(threadIdx.x) / (kTile / 8) + i * (kMmaDepth / kPieces); }
  __device__ static int across_piece() { return int(threadIdx.x) % (kTile / 8); }

  template <bool kRowsAcross, bool kColumnsAcross>
  __device__ void multiply(uint32_t rows, uint32_t columns) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < kMmaDepth; k += 16) {
      uint32_t a[kBlockRows][4], b[kBlockColumns][2];
#pragma unroll
      for (int i = 0; i < kBlockRows; i++) {
        int first = warp_row() + 16 * i;
        if (kRowsAcross)
          sm80::load_blocks_transposed(a[i], rows + across<kTile>(k + lane / 16 * 8 + lane % 8, first / 8 + lane / 8 % 2));
        else
          sm80::load_blocks(a[i], rows + along(first + lane % 16, k / 8 + lane / 16));
      }
#pragma unroll
      for (int j = 0; j < kBlockColumns; j += 2) {
        int first = warp_column() + 8 * j;
        uint32_t two[4];
        if (kColumnsAcross)
          sm80::load_blocks_transposed(two, columns + across<kTile>(k + lane % 16, first / 8 + lane / 16));
        else
          sm80::load_blocks(two, columns + along(first + lane / 16 * 8 + lane % 8, k / 8 + lane / 8 % 2));
        b[j][0] = two[0], b[j][1] = two[1], b[j + 1][0] = two[2], b[j + 1][1] = two[3];
      }
#pragma unroll
      for (int i = 0; i < kBlockRows; i++)
#pragma unroll
        for (int j = 0; j < kBlockColumns; j++) sm80::mma(sums[i][j], a[i], b[j]);
    }
  }

  // Adds a step of an "across" tile of rows to their own sums.
  __device__ void add_rows(uint32_t rows) {
    int pair = int(threadIdx.x) % kPairs, part = int(threadIdx.x) / kPairs;
#pragma unroll
    for (int k = part; k < kMmaDepth; k += kParts) {
      uint32_t two = sm80::load_shared(rows + across<kTile>(k, pair / 4) + uint32_t(pair % 4 * 4));
      row_sums[0] += __uint_as_float(two << 16), row_sums[1] += __uint_as_float(two & 0xFFFF0000u);
    }
  }
  // store(row, sum) for each row, once all steps are done.
  template <class Store>
  __device__ void each_row_sum(Store store) {
    auto* parts = reinterpret_cast<float2*>(shared_memory);
    __syncthreads();
    parts[threadIdx.x] = {row_sums[0], row_sums[1]};
    __syncthreads();
    if (threadIdx.x >= kPairs) return;
    float2 sum = parts[threadIdx.x];
    for (int part = 1; part < kParts; part++) {
      float2 more = parts[part * kPairs + threadIdx.x];
      sum.x += more.x, sum.y += more.y;
    }
    store(2 * threadIdx.x, sum.x), store(2 * threadIdx.x + 1, sum.y);
  }

  // All steps: `load(rows, columns)` starts the copies of the next step to the two addresses.
  template <bool kRowsAcross, bool kColumnsAcross, class Load>
  __device__ void run(int steps, Load load, bool sum_rows = false) {
    uint32_t base = sm80::shared_address(shared_memory);
    auto rows = [base](int stage) { return base + uint32_t(stage) * 2 * kBytes; };
    auto columns = [base](int stage) { return base + uint32_t(stage) * 2 * kBytes + kBytes; };
    for (int stage = 0; stage < kMmaStages - 1; stage++) {
      if (stage < steps) load(rows(stage), columns(stage));
      sm80::copy_async_commit();
    }
    int stage = 0, next = kMmaStages - 1;
    for (int step = 0; step < steps; step++) {
      sm80::copy_async_wait<kMmaStages - 2>();
      __syncthreads();  // this step's copies of all threads have arrived, and `next`, read in the former step, is free
      if (step + kMmaStages - 1 < steps) load(rows(next), columns(next));
      sm80::copy_async_commit();
      multiply<kRowsAcross, kColumnsAcross>(rows(stage), columns(stage));
      if (kRowsAcross && sum_rows) add_rows(rows(stage));
      stage = stage + 1 == kMmaStages ? 0 : stage + 1;
      next = next + 1 == kMmaStages ? 0 : next + 1;
    }
    sm80::copy_async_wait<0>();
  }

  // store(row, column, v0, v1) for every two neighbours of the results, relative to the tile.
  template <class Store>
  __device__ void each(Store store) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kBlockRows; i++)
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int j = 0; j < kBlockColumns; j++)
          store(warp_row() + 16 * i + 8 * half + lane / 4, warp_column() + 8 * j + lane % 4 * 2, sums[i][j][2 * half],
                sums[i][j][2 * half + 1]);
  }
};

__device__ inline BFloat16* bf16_at(const View& t, size_t row, int column) { return t.bf16() + row * t.ld + column; }
__device__ inline float2 pair(const BFloat16* at) {
  uint32_t two = *reinterpret_cast<const uint32_t*>(at);
  return {__uint_as_float(two << 16), __uint_as_float(two & 0xFFFF0000u)};
}
__device__ inline void put_pair(BFloat16* at, float2 x) { *reinterpret_cast<__nv_bfloat162*>(at) = __floats2bfloat162_rn(x.x, x.y); }

template <int kTile, bool kAcross>
__device__ void mma_product(const MmaProduct& p) {
  using T = Tile<kTile>;
  int first_row = blockIdx.x * kTile, first_column = blockIdx.y * kTile, phase = blockIdx.z;

  int image[T::kPieces], i[T::kPieces], j[T::kPieces];
#pragma unroll
  for (int piece = 0; piece < T::kPieces; piece++) {
    int row = first_row + T::along_row(piece);
    image[piece] = row / (p.h * p.w);
    // A row behind the last one reads outside of every image.
    i[piece] = row < p.rows ? row / p.w % p.h * p.step : -0x8000;
    j[piece] = row % p.w * p.step;
  }
  int tap = p.first_tap[phase], c = 0, steps = 0;
  for (int t = tap; t < p.first_tap[phase + 1]; t++) steps += ceil_div(p.operands[p.tap[t].operands].in.c, kMmaDepth);

  T tile;
  tile.template run<false, kAcross>(steps, [&](uint32_t rows, uint32_t columns) {
    const MmaTap& at = p.tap[tap];
    const MmaOperands& from = p.operands[at.operands];
    const View& in = from.in;
    int channel = c + T::along_piece() * 8;
#pragma unroll
    for (int piece = 0; piece < T::kPieces; piece++) {
      int h = i[piece] + at.h, w = j[piece] + at.w;
      bool inside = h >= 0 && w >= 0 && h < in.h && w < in.w && channel < in.c;
      size_t pixel = (size_t(image[piece]) * in.h + h) * in.w + w;
      sm80::copy_async(rows + along(T::along_row(piece), T::along_piece()), bf16_at(in, inside ? pixel : 0, inside ? channel : 0), inside);
    }
#pragma unroll
    for (int piece = 0; piece < T::kPieces; piece++) {
      int k = kAcross ? c + T::across_k(piece) : channel;
      int column = first_column + (kAcross ? T::across_piece() * 8 : T::along_row(piece));
      bool inside = k < in.c && column < p.columns;
      size_t place = kAcross ? size_t(k) * from.weights_row + at.weights + column : size_t(column) * from.weights_row + at.weights + k;
      uint32_t to = kAcross ? across<kTile>(T::across_k(piece), T::across_piece()) : along(T::along_row(piece), T::along_piece());
      sm80::copy_async(columns + to, from.weights + (inside ? place : 0), inside);
    }
    c += kMmaDepth;
    if (c >= in.c) c = 0, tap++;
  });

  tile.each([&](int tile_row, int tile_column, float v0, float v1) {
    int row = first_row + tile_row, column = first_column + tile_column;
    if (row >= p.rows || column >= p.columns) return;
    int n = row / (p.h * p.w);
    size_t place = row;
    if (p.phases == 2) place = (size_t(n) * p.h * 2 + row / p.w % p.h * 2 + phase / 2) * p.w * 2 + row % p.w * 2 + phase % 2;
    float2 x{v0, v1};
    auto plus = [&x](float2 more) { x = {x.x + more.x, x.y + more.y}; };
    for (const View* b : {&p.b, &p.shortcut_b})
      if (b->data) plus({b->data[column], b->data[column + 1]});
    if (p.temb.data) plus(pair(bf16_at(p.temb, n, column)));
    if (p.residual.data) plus(pair(bf16_at(p.residual, place, column)));
    const GradView& out = p.out[column >= p.split];
    if (!out.t.data) return;
    BFloat16* to = bf16_at(out.t, place, column < p.split ? column : column - p.split);
    if (out.accumulate) plus(pair(to));
    put_pair(to, x);
  });
}

template <int kTile>
__device__ void mma_weight_gradient(const MmaWeightGradient& p) {
  using T = Tile<kTile>;
  int first_row = blockIdx.x * kTile, first_column = blockIdx.y * kTile;
  int begin = blockIdx.z * p.range, end = min(p.pixels, begin + p.range);

  // What this thread copies: 8 channels of dy, and 8 of a tap of x, of pixels kMmaDepth apart.
  int row = first_row + T::across_piece() * 8, column = first_column + T::across_piece() * 8, tap = 0;
  bool row_inside = row < p.rows, column_inside = column < p.columns, second = false;
  if (p.taps > 1)
    tap = column / p.in[0].c, column %= p.in[0].c;
  else if (column >= p.in[0].c)
    second = true, column -= p.in[0].c;
  const View& in = p.in[second];
  int tap_h = tap / 3 - p.pad, tap_w = tap % 3 - p.pad;
  int image[T::kPieces], i[T::kPieces], j[T::kPieces], pixel[T::kPieces];
#pragma unroll
  for (int piece = 0; piece < T::kPieces; piece++) {
    int at = pixel[piece] = begin + T::across_k(piece);
    image[piece] = at / (p.h * p.w), i[piece] = at / p.w % p.h, j[piece] = at % p.w;
  }
  bool biases = p.parts.biases && blockIdx.y == 0;
  int further_j = kMmaDepth % p.w, further_i = kMmaDepth / p.w % p.h, further_images = kMmaDepth / p.w / p.h;

  T tile;
  auto load = [&](uint32_t rows, uint32_t columns) {
#pragma unroll
    for (int piece = 0; piece < T::kPieces; piece++) {
      uint32_t to = across<kTile>(T::across_k(piece), T::across_piece());
      bool inside = pixel[piece] < end && row_inside;
      sm80::copy_async(rows + to, bf16_at(p.dy, inside ? pixel[piece] : 0, inside ? row : 0), inside);
      int h = i[piece] * p.step + tap_h, w = j[piece] * p.step + tap_w;
      inside = pixel[piece] < end && column_inside && h >= 0 && w >= 0 && h < in.h << p.enlarged && w < in.w << p.enlarged;
      size_t from = (size_t(image[piece]) * in.h + (h >> p.enlarged)) * in.w + (w >> p.enlarged);
      sm80::copy_async(columns + to, bf16_at(in, inside ? from : 0, inside ? column : 0), inside);
      pixel[piece] += kMmaDepth;
      j[piece] += further_j;
      if (j[piece] >= p.w) j[piece] -= p.w, i[piece]++;
      i[piece] += further_i;
      if (i[piece] >= p.h) i[piece] -= p.h, image[piece]++;
      image[piece] += further_images;
    }
  };
  tile.template run<true, true>(ceil_div(end - begin, kMmaDepth), load, biases);

  float* weights = p.parts.weights + size_t(blockIdx.z) * p.rows * p.columns;
  tile.each([&](int tile_row, int tile_column, float v0, float v1) {
    int k = first_row + tile_row, column = first_column + tile_column;
    if (k < p.rows && column < p.columns) *reinterpret_cast<float2*>(weights + size_t(k) * p.columns + column) = {v0, v1};
  });
  if (biases)
    tile.each_row_sum([&](int tile_row, float sum) {
      int k = first_row + tile_row;
      if (k < p.rows) p.parts.biases[size_t(blockIdx.z) * p.rows + k] = sum;
    });
}

// ---- kernels: of 128 and 64 rows and columns per tile

#define PHOENIX_MMA_KERNELS(tile)                                                                                                        \
  extern "C" __global__ void __launch_bounds__(mma_threads(tile), 2) mma_forward_##tile##_kernel(const __grid_constant__ MmaProduct p) { \
    begin_kernel();                                                                                                                      \
    mma_product<tile, false>(p);                                                                                                         \
  }                                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(mma_threads(tile), 2)                                                                     \
      mma_input_gradient_##tile##_kernel(const __grid_constant__ MmaProduct p) {                                                         \
    begin_kernel();                                                                                                                      \
    mma_product<tile, true>(p);                                                                                                          \
  }                                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(mma_threads(tile), 2)                                                                     \
      mma_weight_gradient_##tile##_kernel(const __grid_constant__ MmaWeightGradient p) {                                                 \
    begin_kernel();                                                                                                                      \
    mma_weight_gradient<tile>(p);                                                                                                        \
  }
PHOENIX_MMA_KERNELS(128)
PHOENIX_MMA_KERNELS(64)

}  // namespace phx
