// What products on Hopper's tensor cores share (wgmma_product.cu, wgmma_halo.cu): the ring of stages through which operands come, and all of out(p,j) but how
// its operands lie in shared memory. A block takes tiles of 128 x N in a fixed order.
#pragma once
#include "sm90.cuh"
#include "wgmma_product.cuh"

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

// A ring of stages. `full` completes when a stage's bytes have arrived, `empty` when all that read it have said so.
template <uint32_t StageBytes, int Stages>
struct Ring {
  static constexpr uint32_t kBytes = StageBytes * Stages, kBarrierBytes = 16 * Stages;
  uint32_t base, barriers;
  int stage = 0;
  uint32_t phase = 0;

  __device__ uint32_t at() const { return base + uint32_t(stage) * StageBytes; }
  __device__ uint32_t full(int s) const { return barriers + uint32_t(s) * 8; }
  __device__ uint32_t empty(int s) const { return barriers + uint32_t(Stages + s) * 8; }
  __device__ void advance() {
    if (++stage == Stages) {
      stage = 0;
      phase ^= 1;
    }
  }
  __device__ void init(uint32_t readers) const {
    for (int s = 0; s < Stages; s++) {
      mbarrier_init(full(s), 1);
      mbarrier_init(empty(s), readers);
    }
  }
  // The next stage, free and expecting so many bytes.
  __device__ uint32_t begin_load(uint32_t bytes = StageBytes) const {
    mbarrier_wait(empty(stage), phase ^ 1);
    mbarrier_arrive_expect(full(stage), bytes);
    return full(stage);
  }
  __device__ void wait_full() const { mbarrier_wait(full(stage), phase); }
  // By every thread of a consumer: told to all blocks of the cluster, each of which copies a part of B to all.
  template <int Cluster>
  __device__ void release(int s, int thread) const {
    if (Cluster > 1 && thread < Cluster) mbarrier_arrive_at(empty(s), uint32_t(thread));
    if (Cluster == 1 && thread == 0) mbarrier_arrive(empty(s));
  }
};

// After the barriers' initialisation; returns the block's rank in its cluster.
template <int Cluster>
__device__ int begin_cluster() {
  if constexpr (Cluster > 1) {
    cluster_barrier();
    return int(cluster_rank());
  }
  __syncthreads();
  return 0;
}
// When nobody copies or arrives any more.
template <int Cluster>
__device__ void end_cluster() {
  if constexpr (Cluster > 1) cluster_barrier();
}

// Tiles go by phases, then pixels, then columns, those of the first tensor of results before those of the second. Cluster 2: two blocks take two
// tiles of pixels that lie side by side, of the same columns.
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

// Step s over what is read: the 64 channels from which on, of which input, and where they lie among those of the weights.
struct Channels {
  int second, first, of_weights;
};
__device__ Channels channels_of(const WgmmaOperands& from, int s) {
  int second = s >= from.steps0, first = (second ? s - from.steps0 : s) * kWgmmaDepth;
  return {second, first, first + (second ? from.channels0 : 0)};
}

// The weights of a tap and 64 channels of what is read, to a stage of 64 columns x 64 a block; in the inputs' gradient MN-major. In a cluster each block
// copies its part to all.
template <int Columns, bool InputGradient, int Cluster>
__device__ void load_weights(uint32_t stage, const TensorMap* weights, uint32_t full, int channel, int tap, int column, int rank) {
  constexpr uint16_t kAll = (1 << Cluster) - 1;
  auto load = [&](uint32_t to, int c0, int c2) {
    if constexpr (Cluster > 1)
      multicast_box(to, weights, full, kAll, c0, tap, c2);
    else
      load_box(to, weights, full, c0, tap, c2);
  };
  if (InputGradient)
    for (int j = rank; j < Columns / 64; j += Cluster) load(stage + uint32_t(j) * kBlockBytes, column + 64 * j, channel);
  else
    load(stage + uint32_t(rank) * (Columns * 128 / Cluster), channel, column + rank * (Columns / Cluster));
}

// The coordinates of 64 pixels in the maps of results but for the channel.
struct ResultPlace {
  int c1, c2, c3, c4;
};

// A consumer's 64 rows of results, staged in shared memory: the residual is read there, the results are written over it and stored from it.
template <int Columns>
struct Results {
  static constexpr int kBlocks = Columns / 64;
  uint32_t staged, residual_barrier;
  int consumer, thread;
  uint32_t residual_phase = 0;

  // Before the tile's sums: starts to read the residual.
  __device__ void begin(const WgmmaOutput& out, int column, ResultPlace at) const {
    if (thread) return;
    wait_stores_read();
    if (!out.has_residual) return;
    mbarrier_arrive_expect(residual_barrier, kBlocks * kBlockBytes);
    for (int j = 0; j < kBlocks; j++)
      load_box(staged + uint32_t(j) * kBlockBytes, &out.residual, residual_barrier, column + 64 * j, at.c1, at.c2, at.c3, at.c4);
  }
  __device__ void put(const WgmmaForward& f, const WgmmaOutput& out, Pixel p, int column, ResultPlace at,
                      const float (&sums)[Columns / 2]) {
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
        uint32_t offset =
            uint32_t(j / 8) * kBlockBytes + uint32_t(row + 8 * i) * 128 + uint32_t((j % 8) ^ (row % 8)) * 16 + uint32_t(pair) * 4;
        auto* place = reinterpret_cast<__nv_bfloat162*>(shared_memory + (staged - shared_address(shared_memory)) + offset);
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
    if (thread) return;
    for (int j = 0; j < kBlocks; j++) store_box(&out.to, staged + uint32_t(j) * kBlockBytes, column + 64 * j, at.c1, at.c2, at.c3, at.c4);
    commit_stores();
  }
  // After the last tile.
  __device__ void end() const {
    if (thread == 0) wait_stores();
  }
};

// All tiles of out(p,j): one warpgroup copies operands ahead, two multiply 64 rows each. How operands lie in shared memory is a matter of `Operands`:
// kBytes and kBarrierBytes of it, init() by one thread, load() of a tile by the thread that copies, accumulate() by a consumer, and the place of its rows.
template <int Columns, bool InputGradient, int Cluster, template <int, bool, int> class AnyOperands>
__device__ void forward(const WgmmaForward& f) {
  using Operands = AnyOperands<Columns, InputGradient, Cluster>;
  uint32_t base = shared_address(shared_memory), staged = base + Operands::kBytes, barriers = staged + kWgmmaRows * Columns * 2,
           residual_barriers = barriers + Operands::kBarrierBytes;
  Operands operands(base, barriers);
  int warpgroup = int(threadIdx.x) / 128, thread = int(threadIdx.x) % 128;
  if (threadIdx.x == 0) {
    operands.init();
    for (int c = 0; c < kConsumers; c++) mbarrier_init(residual_barriers + uint32_t(c) * 8, 1);
    mbarrier_init_fence();
  }
  begin_kernel();
  int rank = begin_cluster<Cluster>();
  int first_tile = int(blockIdx.x) / Cluster, stride = int(gridDim.x) / Cluster;
  int tiles = (f.pixels.count + Cluster - 1) / Cluster * (f.out[0].tiles + f.out[1].tiles) * f.phases * f.phases;

  if (warpgroup == 0) {
    lower_registers<40>();
    if (thread == 0) {
      prefetch_map(&f.window.in[0]);
      prefetch_map(&f.window.weights);
      for (int tile = first_tile; tile < tiles; tile += stride) {
        auto [p, phase, in_second, column] = forward_tile<Columns, Cluster>(f, tile, rank);
        operands.load(f, p, phase, column + (in_second ? f.out[0].columns : 0), rank);
      }
    }
  } else {
    raise_registers<232>();
    int consumer = warpgroup - 1;
    Results<Columns> results{staged + uint32_t(consumer) * Columns / 64 * kBlockBytes, residual_barriers + uint32_t(consumer) * 8, consumer,
                             thread};
    for (int tile = first_tile; tile < tiles; tile += stride) {
      auto [p, phase, in_second, column] = forward_tile<Columns, Cluster>(f, tile, rank);
      const WgmmaOutput& out = f.out[in_second];
      ResultPlace place = Operands::result_place(f, p, phase, consumer);
      results.begin(out, column, place);
      float sums[Columns / 2];
      operands.accumulate(f, phase, consumer, thread, sums);
      results.put(f, out, p, column, place, sums);
    }
    results.end();
  }
  end_cluster<Cluster>();
}

}  // namespace
}  // namespace phx
#endif
