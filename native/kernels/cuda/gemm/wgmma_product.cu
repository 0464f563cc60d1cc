// Convolutions and linear layers on Hopper's tensor cores: bf16 in, fp32 sums. A block takes tiles of 128 x N in a fixed order; one
// warpgroup copies operands ahead into a ring of stages (TMA), two multiply 64 rows each (wgmma). Neighbourhoods are never formed: a tile
// of pixels is a box of the image, and a tap is the same box started elsewhere; what lies outside of the image is read as 0, which is the
// padding.
// Both gradients read the operands as they lie: dx takes the weights, and dw both operands, MN-major.
#include "kernels/cuda/conv2d.cuh"
#include "kernels/cuda/gemm/wgmma_tiles.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
namespace phx {
namespace {

// A stage: rows of A, then of B.
constexpr uint32_t kA = kWgmmaRows * 128;
constexpr uint32_t stage_bytes(int columns) { return kA + uint32_t(columns) * 128; }

// Sums `steps` stages. A K-major: rows of pixels; MN-major: rows of channels. One group of products stays under way while the next is
// issued. also(a, accumulate): more products with A. meanwhile(): called once, while the first products are under way.
template <bool MnMajorA, bool MnMajorB, int Cluster, class Ring, int Size, class Also, class Meanwhile>
__device__ void add_products(Ring& ring, int steps, int consumer, int thread, float (&sums)[Size], Also also, Meanwhile meanwhile) {
  constexpr uint32_t kStepA = (MnMajorA ? 2048 : 32) >> 4, kStepB = (MnMajorB ? 2048 : 32) >> 4;
  int former = 0;
  for (int step = 0; step < steps; step++) {
    ring.wait_full();
    uint64_t a = operand(ring.at() + uint32_t(consumer) * kBlockBytes, kBlockBytes), b = operand(ring.at() + kA, kBlockBytes);
    products_fence();
#pragma unroll
    for (int k = 0; k < kWgmmaDepth / 16; k++) {
      multiply<MnMajorA, MnMajorB>(sums, a + k * kStepA, b + k * kStepB, step + k);
      also(a + k * kStepA, step + k);
    }
    products_commit();
    if (step == 0) meanwhile();
    products_wait<1>();
    if (step) ring.template release<Cluster>(former, thread);
    former = ring.stage;
    ring.advance();
  }
  products_wait<0>();
  if (steps) ring.template release<Cluster>(former, thread);
}

// Operands of out(p,j), in a stage both: a tap's box of pixels, 64 channels of it, and the weights.
template <int Columns, bool InputGradient, int Cluster>
struct Boxes {
  using Stages = Ring<stage_bytes(Columns), wgmma_stages(Columns, true)>;
  static constexpr uint32_t kBytes = Stages::kBytes, kBarrierBytes = Stages::kBarrierBytes;
  Stages ring;

  __device__ Boxes(uint32_t base, uint32_t barriers) : ring{base, barriers} {}
  __device__ void init() const { ring.init(kConsumers * Cluster); }
  __device__ void load(const WgmmaForward& f, Pixel p, int phase, int column, int rank) {
    int taps = f.first_tap[phase + 1], end = taps + (!InputGradient && f.shortcut.steps > 0);
    for (int t = f.first_tap[phase]; t < end; t++) {
      bool is_tap = InputGradient || t < taps;  // else the shortcut
      const WgmmaOperands& from = is_tap ? f.window : f.shortcut;
      Tap tap = is_tap ? f.tap[t] : Tap{};
      int w = p.w * f.stride + tap.w, h = p.h * f.stride + tap.h;
      for (int s = 0; s < from.steps; s++) {
        auto [second, channel, of_weights] = channels_of(from, s);
        uint32_t full = ring.begin_load();
        load_box(ring.at(), &from.in[second], full, channel, w, h, p.n);
        load_weights<Columns, InputGradient, Cluster>(ring.at() + kA, &from.weights, full, of_weights, tap.index, column, rank);
        ring.advance();
      }
    }
  }
  template <class Meanwhile>
  __device__ void accumulate(const WgmmaForward& f, int phase, int consumer, int thread, float (&sums)[Columns / 2], Meanwhile meanwhile) {
    int steps = (f.first_tap[phase + 1] - f.first_tap[phase]) * f.window.steps + f.shortcut.steps;
    add_products<false, InputGradient, Cluster>(
        ring, steps, consumer, thread, sums, [](uint64_t, int) {}, meanwhile);
  }
  // Results are seen as (N·H', phases of h, W', phases of w, J): a convolution of stride 1 has one phase each way; the inputs' gradient of
  // a stride of 2 writes every other pixel of every other row.
  static __device__ ResultPlace result_place(const WgmmaForward& f, Pixel p, int phase, int half) {
    int row = p.n * f.rows_per_image + p.h, w = p.w;
    if (f.pixels.box.w > kHalfRows)
      w += half * kHalfRows;
    else
      row += half * (kHalfRows / f.pixels.box.w);
    return {phase % f.phases, w, phase / f.phases, row};
  }
};

// Tiles of one range of pixels follow each other, for they read the same. Columns go by the phases of dy, and in a phase by blocks of 64
// channels of x, those of a tap after those of the former. Cluster 2: two blocks take two tiles of rows and copy half of x to both, or two
// of columns and half of dy.
struct GradientTile {
  int range, row, phase, block;  // the first row; the first block of the phase's
};
template <int Columns, int Cluster>
__device__ GradientTile gradient_tile(const WgmmaWeightGradient& g, int tile, int rank) {
  bool pair_rows = Cluster > 1 && g.pair_rows, pair_columns = Cluster > 1 && !g.pair_rows;
  int columns = pair_columns ? g.column_tiles / 2 : g.column_tiles, rows = pair_rows ? g.row_tiles / 2 : g.row_tiles;
  int column = tile % columns, phase = tile / columns % g.phases, row = tile / (columns * g.phases) % rows;
  if (pair_columns) column = 2 * column + rank;
  if (pair_rows) row = 2 * row + rank;
  return {tile / (columns * g.phases * rows), row * kWgmmaRows, phase, column * (Columns / 64)};
}
struct GradientBlock {
  int second, channel;  // of which x, from which on; outside of it after the phase's last block
  Tap tap;
};
__device__ GradientBlock gradient_block(const WgmmaWeightGradient& g, int phase, int block) {
  int of_tap = g.blocks[0] + g.blocks[1];
  if (block >= g.taps * of_tap) return {0, g.blocks[0] * 64, {}};
  int place = block % of_tap, second = place >= g.blocks[0];
  return {second, (second ? place - g.blocks[0] : place) * 64, g.tap[phase * g.taps + block / of_tap]};
}

template <int Columns, int Cluster>
__device__ void weight_gradient(const WgmmaWeightGradient& g) {
  constexpr int kStages = wgmma_stages(Columns, false), kBlocks = Columns / 64;
  constexpr uint16_t kAll = (1 << Cluster) - 1;
  using Stages = Ring<stage_bytes(Columns), kStages>;
  uint32_t base = shared_address(shared_memory);
  constexpr uint32_t kOnes = Stages::kBytes + 256;
  Stages ring{base, base + Stages::kBytes};
  int warpgroup = int(threadIdx.x) / 128, thread = int(threadIdx.x) % 128;
  if (threadIdx.x == 0) {
    prefetch_map(&g.dy);
    prefetch_map(&g.x[0]);
    ring.init(kConsumers * Cluster);
    mbarrier_init_fence();
  }
  if (threadIdx.x < 64) {
    reinterpret_cast<uint32_t*>(shared_memory + kOnes)[threadIdx.x] = 0x3F803F80;  // two ones
    fence_async_proxy();
  }
  begin_kernel();
  int rank = begin_cluster<Cluster>();
  int tiles = g.row_tiles * g.column_tiles * g.phases * g.ranges / Cluster;

  if (warpgroup == 0) {
    lower_registers<56>();  // the places of four blocks
    for (int tile = int(blockIdx.x) / Cluster; tile < tiles && thread == 0; tile += int(gridDim.x) / Cluster) {
      auto [range, row, phase, first] = gradient_tile<Columns, Cluster>(g, tile, rank);
      int begin = range * g.steps_per_range, end = min(begin + g.steps_per_range, g.steps);
      GradientBlock blocks[kBlocks];
#pragma unroll
      for (int j = 0; j < kBlocks; j++) blocks[j] = gradient_block(g, phase, first + j);
      int phase_w = phase % 2, phase_h = phase / 2;
      Pixel p = first_pixel(g.pixels, begin);
      for (int step = begin; step < end; step++, p = next_pixel(g.pixels, p)) {
        uint32_t full = ring.begin_load();
        for (int j = 0; j < kConsumers; j++) {
          uint32_t to = ring.at() + uint32_t(j) * kBlockBytes;
          int c = row + 64 * j, w = p.w * g.upsample + phase_w, h = p.h * g.upsample + phase_h;
          if (Cluster == 1 || g.pair_rows)
            load_box(to, &g.dy, full, c, w, h, p.n);
          else if (j == rank)
            multicast_box(to, &g.dy, full, kAll, c, w, h, p.n);
        }
#pragma unroll
        for (int j = 0; j < kBlocks; j++) {
          uint32_t to = ring.at() + kA + uint32_t(j) * kBlockBytes;
          GradientBlock b = blocks[j];
          int w = p.w * g.stride + b.tap.w, h = p.h * g.stride + b.tap.h;
          if (Cluster == 1 || !g.pair_rows)
            load_box(to, &g.x[b.second], full, b.channel, w, h, p.n);
          else if (j % 2 == rank)
            multicast_box(to, &g.x[b.second], full, kAll, b.channel, w, h, p.n);
        }
        ring.advance();
      }
    }
  } else {
    raise_registers<224>();
    int consumer = warpgroup - 1;
    for (int tile = int(blockIdx.x) / Cluster; tile < tiles; tile += int(gridDim.x) / Cluster) {
      auto [range, row, phase, first] = gradient_tile<Columns, Cluster>(g, tile, rank);
      int begin = range * g.steps_per_range, end = min(begin + g.steps_per_range, g.steps);
      float sums[Columns / 2];
      int first_row = row + consumer * kHalfRows + thread / 32 * 16 + thread % 32 / 4, pair = thread % 4;
      if (g.parts.biases && first == 0) {  // dy's sums, as a product with ones
        float of_dy[4];
        uint64_t ones = small_operand(base + kOnes);
        add_products<true, true, Cluster>(
            ring, end - begin, consumer, thread, sums,
            [&](uint64_t a, int accumulate) { multiply<true, false>(of_dy, a, ones, accumulate); }, [] {});
        float* out = g.parts.biases + (size_t(range) * g.phases + phase) * g.rows;
        for (int i = 0; i < 2; i++)
          if (pair == 0 && first_row + 8 * i < g.rows) out[first_row + 8 * i] = of_dy[2 * i];
      } else {
        add_products<true, true, Cluster>(
            ring, end - begin, consumer, thread, sums, [](uint64_t, int) {}, [] {});
      }
      int all_columns = g.columns[0] + g.columns[1], all_taps = g.phases * g.taps;
#pragma unroll
      for (int j = 0; j < kBlocks; j++) {
        GradientBlock b = gradient_block(g, phase, first + j);
#pragma unroll
        for (int i = 0; i < 2; i++) {
          int k = first_row + 8 * i;
          float* out =
              g.parts.weights + ((size_t(range) * g.rows + k) * all_taps + b.tap.index) * all_columns + (b.second ? g.columns[0] : 0);
#pragma unroll
          for (int eight = 0; eight < 8; eight++) {
            int c = b.channel + 8 * eight + 2 * pair, at = 4 * (8 * j + eight) + 2 * i;
            if (k < g.rows && c < g.columns[b.second]) *reinterpret_cast<float2*>(out + c) = {sums[at], sums[at + 1]};
          }
        }
      }
    }
  }
  end_cluster<Cluster>();
}

}  // namespace

#define PHOENIX_PRODUCT(name, Parameters, ...) \
  extern "C" __global__ void __launch_bounds__(kWgmmaThreads, 1) name(const __grid_constant__ Parameters p) { __VA_ARGS__(p); }
// clang-format off
PHOENIX_PRODUCT(wgmma_forward_64_kernel, WgmmaForward, forward<64, false, 1, Boxes>)
PHOENIX_PRODUCT(wgmma_forward_128_kernel, WgmmaForward, forward<128, false, 1, Boxes>)
PHOENIX_PRODUCT(wgmma_forward_256_kernel, WgmmaForward, forward<256, false, 1, Boxes>)
PHOENIX_PRODUCT(wgmma_forward_128_pair_kernel, WgmmaForward, forward<128, false, 2, Boxes>)
PHOENIX_PRODUCT(wgmma_forward_256_pair_kernel, WgmmaForward, forward<256, false, 2, Boxes>)
PHOENIX_PRODUCT(wgmma_input_gradient_64_kernel, WgmmaForward, forward<64, true, 1, Boxes>)
PHOENIX_PRODUCT(wgmma_input_gradient_128_kernel, WgmmaForward, forward<128, true, 1, Boxes>)
PHOENIX_PRODUCT(wgmma_input_gradient_256_kernel, WgmmaForward, forward<256, true, 1, Boxes>)
PHOENIX_PRODUCT(wgmma_input_gradient_128_pair_kernel, WgmmaForward, forward<128, true, 2, Boxes>)
PHOENIX_PRODUCT(wgmma_input_gradient_256_pair_kernel, WgmmaForward, forward<256, true, 2, Boxes>)
PHOENIX_PRODUCT(wgmma_weight_gradient_64_kernel, WgmmaWeightGradient, weight_gradient<64, 1>)
PHOENIX_PRODUCT(wgmma_weight_gradient_128_kernel, WgmmaWeightGradient, weight_gradient<128, 1>)
PHOENIX_PRODUCT(wgmma_weight_gradient_192_kernel, WgmmaWeightGradient, weight_gradient<192, 1>)
PHOENIX_PRODUCT(wgmma_weight_gradient_256_kernel, WgmmaWeightGradient, weight_gradient<256, 1>)
PHOENIX_PRODUCT(wgmma_weight_gradient_128_pair_kernel, WgmmaWeightGradient, weight_gradient<128, 2>)
PHOENIX_PRODUCT(wgmma_weight_gradient_192_pair_kernel, WgmmaWeightGradient, weight_gradient<192, 2>)
PHOENIX_PRODUCT(wgmma_weight_gradient_256_pair_kernel, WgmmaWeightGradient, weight_gradient<256, 2>)
// clang-format on

}  // namespace phx
#endif
