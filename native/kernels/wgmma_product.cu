// Convolutions and linear layers on Hopper's tensor cores: bf16 in, fp32 sums. A block takes tiles of 128 x N in a fixed order; one warpgroup copies
// operands ahead into a ring of stages (TMA), two multiply 64 rows each (wgmma). Neighbourhoods are never formed: a tile of pixels is a box
// of the image, and a tap is the same box started elsewhere; what lies outside of the image is read as 0, which is the padding.
// Both gradients read the operands as they lie: dx takes the weights, and dw both operands, MN-major.
#include "wgmma_product.cuh"

#include "conv2d.cuh"

#include "sm90.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL  // not of other targets
namespace phx {
namespace {

using namespace sm90;

constexpr int kConsumers = 2, kHalfRows = kWgmmaRows / kConsumers;
constexpr uint32_t kBlockBytes = 64 * 128;  // 64 rows of 64 values

extern __shared__ __align__(1024) unsigned char shared_memory[];

struct Pixel {
  int n, h, w;
};
__device__ Pixel first_pixel(const PixelTiles& t, int tile) {
  return {tile / t.tiles_w / t.tiles_h * t.box.n, tile / t.tiles_w % t.tiles_h * t.box.h, tile % t.tiles_w * t.box.w};
}

// The ring of stages. `full` completes when both operands have arrived, `empty` when the consumers of all blocks of the cluster have read them: each
// copies a part of B to all.
template <int Columns, int Stages, int Cluster>
struct Ring {
  static constexpr uint32_t kA = kWgmmaRows * 128, kB = Columns * 128, kStage = kA + kB, kBytes = kStage * Stages;
  uint32_t base, barriers;
  int stage = 0;
  uint32_t phase = 0;

  __device__ uint32_t a() const { return base + uint32_t(stage) * kStage; }
  __device__ uint32_t b() const { return a() + kA; }
  __device__ uint32_t full(int s) const { return barriers + uint32_t(s) * 8; }
  __device__ uint32_t empty(int s) const { return barriers + uint32_t(Stages + s) * 8; }
  __device__ void advance() {
    if (++stage == Stages) {
      stage = 0;
      phase ^= 1;
    }
  }
  __device__ void init() const {
    for (int s = 0; s < Stages; s++) {
      mbarrier_init(full(s), 1);
      mbarrier_init(empty(s), kConsumers * Cluster);
    }
  }
  // By every thread of a consumer.
  __device__ void release(int s, int thread) const {
    if (Cluster > 1 && thread < Cluster) mbarrier_arrive_at(empty(s), uint32_t(thread));
    if (Cluster == 1 && thread == 0) mbarrier_arrive(empty(s));
  }
  // The next stage, free and expecting its bytes.
  __device__ uint32_t begin_load() const {
    mbarrier_wait(empty(stage), phase ^ 1);
    mbarrier_arrive_expect(full(stage), kStage);
    return full(stage);
  }
};

// Sums `steps` stages. A K-major: rows of pixels; MN-major: rows of channels. One group of products stays under way while the next is issued.
// also(a, accumulate): more products with A.
template <bool MnMajorA, bool MnMajorB, class Ring, int Size, class Also>
__device__ void accumulate(Ring& ring, int steps, int consumer, int thread, float (&sums)[Size], Also also) {
  constexpr uint32_t kStepA = (MnMajorA ? 2048 : 32) >> 4, kStepB = (MnMajorB ? 2048 : 32) >> 4;
  int former = 0;
  for (int step = 0; step < steps; step++) {
    mbarrier_wait(ring.full(ring.stage), ring.phase);
    uint64_t a = operand(ring.a() + uint32_t(consumer) * kBlockBytes, kBlockBytes), b = operand(ring.b(), kBlockBytes);
    products_fence();
#pragma unroll
    for (int k = 0; k < kWgmmaDepth / 16; k++) {
      multiply<MnMajorA, MnMajorB>(sums, a + k * kStepA, b + k * kStepB, step + k);
      also(a + k * kStepA, step + k);
    }
    products_commit();
    products_wait<1>();
    if (step) ring.release(former, thread);
    former = ring.stage;
    ring.advance();
  }
  products_wait<0>();
  if (steps) ring.release(former, thread);
}

// Where 64 rows of a tile lie in `out`, seen as (N·H', phases of h, W', phases of w, J): a convolution of stride 1 has one phase each way; the
// inputs' gradient of a stride of 2 writes every other pixel of every other row.
struct OutputPixels {
  int w, row;
};
__device__ OutputPixels output_pixels(const WgmmaForward& f, Pixel p, int half) {
  int row = p.n * f.rows_per_image + p.h;
  return f.pixels.box.w > kHalfRows ? OutputPixels{p.w + half * kHalfRows, row}
                                    : OutputPixels{p.w, row + half * (kHalfRows / f.pixels.box.w)};
}

// Tiles go by phases, then pixels, then columns, those of the first tensor of results before those of the second.
struct ForwardTile {
  Pixel pixel;
  int phase, second, column;  // columns of which tensor, from which on
};
template <int Columns, int Cluster>
__device__ ForwardTile forward_tile(const WgmmaForward& f, int tile, int rank) {
  int columns = f.out[0].tiles + f.out[1].tiles, of_phase = (f.pixels.count + Cluster - 1) / Cluster * columns;
  int column = tile % columns, second = column >= f.out[0].tiles;
  return {first_pixel(f.pixels, tile % of_phase / columns * Cluster + rank), tile / of_phase, second,
          (column - (second ? f.out[0].tiles : 0)) * Columns};
}

// Cluster 2: two blocks take two tiles of pixels that lie side by side, of the same columns; each copies half of the weights to both.
template <int Columns, bool InputGradient, int Cluster>
__device__ void forward(const WgmmaForward& f) {
  constexpr int kStages = wgmma_stages(Columns, true), kBlocks = Columns / 64;
  constexpr uint16_t kAll = (1 << Cluster) - 1;
  using Stages = Ring<Columns, kStages, Cluster>;
  uint32_t base = shared_address(shared_memory), results = base + Stages::kBytes, barriers = results + kWgmmaRows * Columns * 2;
  Stages ring{base, barriers};
  uint32_t residual_barriers = barriers + 2 * kStages * 8;
  int warpgroup = int(threadIdx.x) / 128, thread = int(threadIdx.x) % 128;
  if (threadIdx.x == 0) {
    ring.init();
    for (int c = 0; c < kConsumers; c++) mbarrier_init(residual_barriers + uint32_t(c) * 8, 1);
    mbarrier_init_fence();
  }
  begin_kernel();
  int rank = 0;
  if constexpr (Cluster > 1) {
    rank = int(cluster_rank());
    cluster_barrier();
  } else {
    __syncthreads();
  }
  int first_tile = int(blockIdx.x) / Cluster, stride = int(gridDim.x) / Cluster;
  int tiles = (f.pixels.count + Cluster - 1) / Cluster * (f.out[0].tiles + f.out[1].tiles) * f.phases * f.phases;

  if (warpgroup == 0) {
    lower_registers<40>();
    if (thread == 0) {
      prefetch_map(&f.window.in[0]);
      prefetch_map(&f.window.weights);
      for (int tile = first_tile; tile < tiles; tile += stride) {
        auto [p, phase, in_second, column] = forward_tile<Columns, Cluster>(f, tile, rank);
        if (in_second) column += f.out[0].columns;
        int taps = f.first_tap[phase + 1], end = taps + (!InputGradient && f.shortcut.steps > 0);
        for (int t = f.first_tap[phase]; t < end; t++) {
          bool is_tap = InputGradient || t < taps;  // else the shortcut
          const WgmmaOperands& from = is_tap ? f.window : f.shortcut;
          Tap tap = is_tap ? f.tap[t] : Tap{};
          int w = p.w * f.stride + tap.w, h = p.h * f.stride + tap.h;
          for (int s = 0; s < from.steps; s++) {
            bool second = s >= from.steps0;
            int channel = (second ? s - from.steps0 : s) * kWgmmaDepth;
            uint32_t full = ring.begin_load();
            load_box(ring.a(), &from.in[second], full, channel, w, h, p.n);
            if (second) channel += from.channels0;
            auto load_weights = [&](uint32_t to, int c0, int c2) {
              if constexpr (Cluster > 1)
                multicast_box(to, &from.weights, full, kAll, c0, tap.index, c2);
              else
                load_box(to, &from.weights, full, c0, tap.index, c2);
            };
            if (InputGradient)
              for (int j = rank; j < kBlocks; j += Cluster) load_weights(ring.b() + uint32_t(j) * kBlockBytes, column + 64 * j, channel);
            else
              load_weights(ring.b() + uint32_t(rank) * (Stages::kB / Cluster), channel, column + rank * (Columns / Cluster));
            ring.advance();
          }
        }
      }
    }
  } else {
    raise_registers<232>();
    int consumer = warpgroup - 1;
    bool elected = thread == 0;
    uint32_t staged = results + uint32_t(consumer * kBlocks) * kBlockBytes, residual_barrier = residual_barriers + uint32_t(consumer) * 8;
    uint32_t residual_phase = 0;
    for (int tile = first_tile; tile < tiles; tile += stride) {
      auto [p, phase, in_second, column] = forward_tile<Columns, Cluster>(f, tile, rank);
      const WgmmaOutput& out = f.out[in_second];
      OutputPixels o = output_pixels(f, p, consumer);
      int phase_h = phase / f.phases, phase_w = phase % f.phases;
      int steps = (f.first_tap[phase + 1] - f.first_tap[phase]) * f.window.steps + f.shortcut.steps;
      if (elected) {
        wait_stores_read();
        if (out.has_residual) {
          mbarrier_arrive_expect(residual_barrier, kBlocks * kBlockBytes);
          for (int j = 0; j < kBlocks; j++)
            load_box(staged + uint32_t(j) * kBlockBytes, &out.residual, residual_barrier, column + 64 * j, phase_w, o.w, phase_h, o.row);
        }
      }
      float sums[Columns / 2];
      accumulate<false, InputGradient>(ring, steps, consumer, thread, sums, [](uint64_t, int) {});

      if (out.has_residual) {
        mbarrier_wait(residual_barrier, residual_phase);
        residual_phase ^= 1;
      }
      named_barrier(1 + uint32_t(consumer), 128);  // the former results have been stored
      // This thread's sums: two rows, two columns of every eight.
      int row = thread / 32 * 16 + thread % 32 / 4, pair = thread % 4;
      int pixels_per_image = f.pixels.box.h * f.pixels.box.w;
      const __nv_bfloat16* temb[2] = {};
      for (int i = 0; i < 2; i++) {
        int image = p.n + (consumer * kHalfRows + row + 8 * i) / pixels_per_image;
        if (f.temb && image < f.images) temb[i] = f.temb + size_t(image) * f.temb_ld;
      }
#pragma unroll
      for (int j = 0; j < Columns / 8; j++) {
        int c = column + 8 * j + 2 * pair;
        bool inside = c < out.columns;
        float2 bias{0, 0};
        for (const float* of : {f.window.bias, f.shortcut.bias}) {
          if (!of || !inside) continue;
          float2 more = *reinterpret_cast<const float2*>(of + c);
          bias = {bias.x + more.x, bias.y + more.y};
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
          // 16-byte chunk j%8 of the row, in the copies' swizzle.
          uint32_t at =
              uint32_t(j / 8) * kBlockBytes + uint32_t(row + 8 * i) * 128 + uint32_t((j % 8) ^ (row % 8)) * 16 + uint32_t(pair) * 4;
          auto* place = reinterpret_cast<__nv_bfloat162*>(shared_memory + (staged - base) + at);
          float2 sum{sums[4 * j + 2 * i] + bias.x, sums[4 * j + 2 * i + 1] + bias.y};
          if (temb[i] && inside) {
            float2 t = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(temb[i] + c));
            sum.x += t.x;
            sum.y += t.y;
          }
          if (out.has_residual) {
            float2 r = __bfloat1622float2(*place);
            sum.x += r.x;
            sum.y += r.y;
          }
          *place = __float22bfloat162_rn(sum);
        }
      }
      fence_async_proxy();
      named_barrier(1 + uint32_t(consumer), 128);
      if (elected) {
        for (int j = 0; j < kBlocks; j++)
          store_box(&out.to, staged + uint32_t(j) * kBlockBytes, column + 64 * j, phase_w, o.w, phase_h, o.row);
        commit_stores();
      }
    }
    if (elected) wait_stores();
  }
  if constexpr (Cluster > 1) cluster_barrier();  // nobody copies or arrives any more
}

// The phase of dy's pixels that a tap belongs to, 0 to 3 of an enlargement, and whether its tiles make the biases of that phase.
__device__ int phase_of(const WgmmaWeightGradient& g, Tap t) {
  return g.upsample == 2 ? t.index / kFolded / 2 * 2 + t.index % kFolded / 2 : 0;
}
__device__ bool first_of_phase(const WgmmaWeightGradient& g, Tap t) {
  return g.upsample == 2 ? t.index / kFolded % 2 == 0 && t.index % 2 == 0 : t.index == 0;
}

struct GradientTile {
  int range, row, second, column;  // columns of which x
  Tap tap;
};
// Tiles of one range of pixels follow each other, for they read the same.
template <int Columns>
__device__ GradientTile gradient_tile(const WgmmaWeightGradient& g, int tile) {
  int columns = g.column_tiles[0] + g.column_tiles[1], column = tile % columns, second = column >= g.column_tiles[0];
  tile /= columns;
  return {tile / (g.row_tiles * g.taps), tile / g.taps % g.row_tiles * kWgmmaRows, second,
          (column - (second ? g.column_tiles[0] : 0)) * Columns, g.tap[tile % g.taps]};
}

template <int Columns>
__device__ void weight_gradient(const WgmmaWeightGradient& g) {
  constexpr int kStages = wgmma_stages(Columns, false), kBlocks = Columns / 64;
  using Stages = Ring<Columns, kStages, 1>;
  uint32_t base = shared_address(shared_memory);
  constexpr uint32_t kOnes = Stages::kBytes + 256;
  Stages ring{base, base + Stages::kBytes};
  int warpgroup = int(threadIdx.x) / 128, thread = int(threadIdx.x) % 128;
  if (threadIdx.x == 0) {
    ring.init();
    mbarrier_init_fence();
  }
  if (threadIdx.x < 64) {
    reinterpret_cast<uint32_t*>(shared_memory + kOnes)[threadIdx.x] = 0x3F803F80;  // two ones
    fence_async_proxy();
  }
  begin_kernel();
  __syncthreads();
  int tiles = g.row_tiles * g.taps * (g.column_tiles[0] + g.column_tiles[1]) * g.ranges;

  if (warpgroup == 0) {
    lower_registers<40>();
    if (thread) return;
    for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x)) {
      auto [range, row, second, column, t] = gradient_tile<Columns>(g, tile);
      int begin = range * g.steps_per_range, end = min(begin + g.steps_per_range, g.steps);
      int phase_h = phase_of(g, t) / 2, phase_w = phase_of(g, t) % 2;
      for (int step = begin; step < end; step++) {
        Pixel p = first_pixel(g.pixels, step);
        uint32_t full = ring.begin_load();
        for (int j = 0; j < kConsumers; j++)
          load_box(ring.a() + uint32_t(j) * kBlockBytes, &g.dy, full, row + 64 * j, p.w * g.upsample + phase_w, p.h * g.upsample + phase_h,
                   p.n);
        for (int j = 0; j < kBlocks; j++)
          load_box(ring.b() + uint32_t(j) * kBlockBytes, &g.x[second], full, column + 64 * j, p.w * g.stride + t.w, p.h * g.stride + t.h,
                   p.n);
        ring.advance();
      }
    }
    return;
  }

  raise_registers<232>();
  int consumer = warpgroup - 1;
  for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x)) {
    auto [range, row, second, column, t] = gradient_tile<Columns>(g, tile);
    int begin = range * g.steps_per_range, end = min(begin + g.steps_per_range, g.steps);
    float sums[Columns / 2];
    int first_row = row + consumer * kHalfRows + thread / 32 * 16 + thread % 32 / 4, pair = thread % 4;
    if (g.parts.biases && !second && column == 0 && first_of_phase(g, t)) {  // dy's sums, as a product with ones
      float of_dy[4];
      uint64_t ones = small_operand(base + kOnes);
      accumulate<true, true>(ring, end - begin, consumer, thread, sums,
                             [&](uint64_t a, int accumulate) { multiply<true, false>(of_dy, a, ones, accumulate); });
      float* out = g.parts.biases + (size_t(range) * g.upsample * g.upsample + phase_of(g, t)) * g.rows;
      for (int i = 0; i < 2; i++)
        if (pair == 0 && first_row + 8 * i < g.rows) out[first_row + 8 * i] = of_dy[2 * i];
    } else {
      accumulate<true, true>(ring, end - begin, consumer, thread, sums, [](uint64_t, int) {});
    }
    int all_columns = g.columns[0] + g.columns[1];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int k = first_row + 8 * i;
      float* out = g.parts.weights + ((size_t(range) * g.rows + k) * g.taps + t.index) * all_columns + (second ? g.columns[0] : 0);
#pragma unroll
      for (int j = 0; j < Columns / 8; j++) {
        int c = column + 8 * j + 2 * pair;
        if (k < g.rows && c < g.columns[second]) *reinterpret_cast<float2*>(out + c) = {sums[4 * j + 2 * i], sums[4 * j + 2 * i + 1]};
      }
    }
  }
}

}  // namespace

#define PHOENIX_PRODUCT(name, Parameters, ...) \
  extern "C" __global__ void __launch_bounds__(kWgmmaThreads, 1) name(const __grid_constant__ Parameters p) { __VA_ARGS__(p); }
// clang-format off
PHOENIX_PRODUCT(wgmma_forward_64_kernel, WgmmaForward, forward<64, false, 1>)
PHOENIX_PRODUCT(wgmma_forward_128_kernel, WgmmaForward, forward<128, false, 1>)
PHOENIX_PRODUCT(wgmma_forward_256_kernel, WgmmaForward, forward<256, false, 1>)
PHOENIX_PRODUCT(wgmma_forward_128_pair_kernel, WgmmaForward, forward<128, false, 2>)
PHOENIX_PRODUCT(wgmma_forward_256_pair_kernel, WgmmaForward, forward<256, false, 2>)
PHOENIX_PRODUCT(wgmma_input_gradient_64_kernel, WgmmaForward, forward<64, true, 1>)
PHOENIX_PRODUCT(wgmma_input_gradient_128_kernel, WgmmaForward, forward<128, true, 1>)
PHOENIX_PRODUCT(wgmma_input_gradient_256_kernel, WgmmaForward, forward<256, true, 1>)
PHOENIX_PRODUCT(wgmma_input_gradient_128_pair_kernel, WgmmaForward, forward<128, true, 2>)
PHOENIX_PRODUCT(wgmma_input_gradient_256_pair_kernel, WgmmaForward, forward<256, true, 2>)
PHOENIX_PRODUCT(wgmma_weight_gradient_64_kernel, WgmmaWeightGradient, weight_gradient<64>)
PHOENIX_PRODUCT(wgmma_weight_gradient_128_kernel, WgmmaWeightGradient, weight_gradient<128>)
PHOENIX_PRODUCT(wgmma_weight_gradient_256_kernel, WgmmaWeightGradient, weight_gradient<256>)
// clang-format on

}  // namespace phx
#endif
