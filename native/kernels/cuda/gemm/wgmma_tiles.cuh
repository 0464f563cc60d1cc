// What products on Hopper's tensor cores share (wgmma_product.cu, wgmma_halo.cu): the ring of stages through which operands come, and all
// of out(p,j) but how its operands lie in shared memory. A block takes tiles of 128 x N in a fixed order.
#pragma once
#include "kernels/cuda/gemm/wgmma_product.cuh"
#include "kernels/cuda/sm90.cuh"

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

// Where the next tile starts, without a division.
__device__ Pixel next_pixel(const PixelTiles& t, Pixel p) {
  p.w += t.box.w;
  if (p.w < t.tiles_w * t.box.w) return p;
  p.w = 0, p.h += t.box.h;
  if (p.h < t.tiles_h * t.box.h) return p;
  p.h = 0, p.n += t.box.n;
  return p;
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

// Tiles in their order: those of a phase, in it those of the same pixels, in these by columns, those of the first tensor of results before
// those of the second. Cluster 2: two blocks take two tiles of pixels that lie side by side, of the same columns.
struct ForwardTile {
  Pixel pixel;
  int phase, second, column;  // columns of which tensor, from which on
};
template <int Cluster>
__device__ int tiles_of_phase(const WgmmaForward& f) {
  return ceil_div(f.pixels.count, Cluster) * (f.out[0].tiles + f.out[1].tiles);
}
template <int Cluster>
__device__ int phase_of(const WgmmaForward& f, int tile) {
  return f.phases == 1 ? 0 : tile / tiles_of_phase<Cluster>(f);
}
template <int Columns, int Cluster>
__device__ ForwardTile forward_tile(const WgmmaForward& f, int tile, int rank) {
  int columns = f.out[0].tiles + f.out[1].tiles, of_phase = tiles_of_phase<Cluster>(f);
  int column = tile % columns, second = column >= f.out[0].tiles;
  return {first_pixel(f.pixels, tile % of_phase / columns * Cluster + rank), phase_of<Cluster>(f, tile), second,
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

// The weights of a tap and 64 channels of what is read, to a stage of 64 columns x 64 per block; in the inputs' gradient MN-major. In a
// cluster each block copies its part to all.
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
#pragma unroll
    for (int i = 0; i < Columns / 64 / Cluster; i++) {
      int j = rank + i * Cluster;
      load(stage + uint32_t(j) * kBlockBytes, column + 64 * j, channel);
    }
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
  float* added;  // (Columns): what all rows of a column are given
  int consumer, thread;
  uint32_t residual_phase = 0;

  // The image of row `row` of 64.
  __device__ int image(const WgmmaForward& f, Pixel p, int row) const {
    return p.n + (consumer * kHalfRows + row) / (f.pixels.box.h * f.pixels.box.w);
  }
  // Whether the rows are of one image.
  static __device__ bool one_image(const WgmmaForward& f) { return f.pixels.box.h * f.pixels.box.w >= kHalfRows; }

  // While the tile's sums are made: starts to read the residual, and adds up biases and temb.
  __device__ void begin(const WgmmaForward& f, const WgmmaOutput& out, Pixel p, int column, ResultPlace at) const {
    if (thread == 0 && out.has_residual) {
      wait_stores_read();
      mbarrier_arrive_expect(residual_barrier, kBlocks * kBlockBytes);
      for (int j = 0; j < kBlocks; j++)
        load_box(staged + uint32_t(j) * kBlockBytes, &out.residual, residual_barrier, column + 64 * j, at.c1, at.c2, at.c3, at.c4);
    }
    int of = image(f, p, 0);
    bool with_temb = f.temb && one_image(f) && of < f.images;
    for (int j = thread; j < Columns; j += 128) {
      int c = column + j;
      float sum = 0;
      if (c < out.columns) {
        if (f.window.bias) sum += f.window.bias[c];
        if (f.shortcut.bias) sum += f.shortcut.bias[c];
        if (with_temb) sum += __bfloat162float(f.temb[size_t(of) * f.temb_ld + c]);
      }
      added[j] = sum;
    }
  }
  __device__ void put(const WgmmaForward& f, const WgmmaOutput& out, Pixel p, int column, ResultPlace at,
                      const float (&sums)[Columns / 2]) {
    if (out.has_residual) {
      mbarrier_wait(residual_barrier, residual_phase);
      residual_phase ^= 1;
    }
    if (thread == 0 && !out.has_residual) wait_stores_read();
    named_barrier(1 + uint32_t(consumer), 128);  // the former results have been stored, and what is added is there
    if (f.temb && !one_image(f))
      write<true, true>(f, out, p, column, sums);
    else if (out.has_residual)
      write<true, false>(f, out, p, column, sums);
    else
      write<false, false>(f, out, p, column, sums);
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

 private:
  // A warp's 16 rows, 16 columns at a time. MayAdd: there may be a residual; Images: the rows may be of several, with a temb each.
  template <bool MayAdd, bool Images>
  __device__ void write(const WgmmaForward& f, const WgmmaOutput& out, Pixel p, int column, const float (&sums)[Columns / 2]) const {
    int lane = thread % 32, first_row = thread / 32 * 16, pair = lane % 4;
    int row = first_row + lane % 16;  // whose address this lane gives; its values are of rows lane/4 and eight below
    const __nv_bfloat16* temb[2] = {};
    for (int i = 0; i < 2 && Images; i++) {
      int of = image(f, p, first_row + lane / 4 + 8 * i);
      if (of < f.images) temb[i] = f.temb + size_t(of) * f.temb_ld;
    }
#pragma unroll
    for (int j = 0; j < Columns / 8; j += 2) {
      uint32_t chunk = uint32_t(j % 8 + lane / 16);  // of 16 bytes, in the copies' swizzle
      uint32_t place = staged + uint32_t(j / 8) * kBlockBytes + uint32_t(row) * 128 + (chunk ^ uint32_t(row % 8)) * 16;
      uint32_t values[4] = {};
      if (MayAdd && out.has_residual) sm80::load_blocks(values, place);
#pragma unroll
      for (int eight = 0; eight < 2; eight++) {
        float2 add = *reinterpret_cast<const float2*>(added + 8 * (j + eight) + 2 * pair);
#pragma unroll
        for (int i = 0; i < 2; i++) {
          uint32_t& value = values[2 * eight + i];
          int at = 4 * (j + eight) + 2 * i, c = column + 8 * (j + eight) + 2 * pair;
          float2 sum{sums[at] + add.x, sums[at + 1] + add.y};
          if (MayAdd) sum.x += __uint_as_float(value << 16), sum.y += __uint_as_float(value & 0xFFFF0000u);
          if (Images && temb[i] && c < out.columns) {
            float2 t = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(temb[i] + c));
            sum.x += t.x, sum.y += t.y;
          }
          value = bf16_pair(sum.x, sum.y);
        }
      }
      store_blocks(place, values);
    }
  }
};

// All tiles of out(p,j): one warpgroup copies operands ahead, two multiply 64 rows each. `Operands` decides the layout of operands in
// shared memory:
//
//   kBytes, kBarrierBytes  bytes of shared memory for operands, and for barriers
//   init()                 initialises the barriers; called by one thread
//   load()                 copies the operands of a tile; called by the copying thread
//   accumulate()           multiplies; called by a consumer. It calls its last argument while its first products run
//   result_place()         which rows of the result a consumer's tile has
template <int Columns, bool InputGradient, int Cluster, template <int, bool, int> class AnyOperands>
__device__ void forward(const WgmmaForward& f) {
  using Operands = AnyOperands<Columns, InputGradient, Cluster>;
  uint32_t base = shared_address(shared_memory), staged = base + Operands::kBytes, barriers = staged + kWgmmaRows * Columns * 2,
           residual_barriers = barriers + Operands::kBarrierBytes;
  Operands operands(base, barriers);
  int warpgroup = int(threadIdx.x) / 128, thread = int(threadIdx.x) % 128;
  if (threadIdx.x == 0) {
    for (const TensorMap* map : {&f.window.in[0], &f.window.weights, &f.out[0].to}) prefetch_map(map);
    if (f.out[0].has_residual) prefetch_map(&f.out[0].residual);
    operands.init();
    for (int c = 0; c < kConsumers; c++) mbarrier_init(residual_barriers + uint32_t(c) * 8, 1);
    mbarrier_init_fence();
  }
  begin_kernel();
  int rank = begin_cluster<Cluster>();
  int first_tile = int(blockIdx.x) / Cluster, stride = int(gridDim.x) / Cluster;
  int tiles = tiles_of_phase<Cluster>(f) * f.phases * f.phases;

  if (warpgroup == 0) {
    lower_registers<40>();
    if (thread == 0) {
      for (int tile = first_tile; tile < tiles; tile += stride) {
        auto [p, phase, in_second, column] = forward_tile<Columns, Cluster>(f, tile, rank);
        operands.load(f, p, phase, column + (in_second ? f.out[0].columns : 0), rank);
      }
    }
  } else {
    raise_registers<232>();
    int consumer = warpgroup - 1;
    uint32_t added = residual_barriers + kConsumers * 8 - base + uint32_t(consumer) * Columns * 4;
    Results<Columns> results{staged + uint32_t(consumer) * Columns / 64 * kBlockBytes, residual_barriers + uint32_t(consumer) * 8,
                             reinterpret_cast<float*>(shared_memory + added), consumer, thread};
    for (int tile = first_tile; tile < tiles; tile += stride) {
      ForwardTile t;
      ResultPlace place;
      float sums[Columns / 2];
      operands.accumulate(f, phase_of<Cluster>(f, tile), consumer, thread, sums, [&] {
        t = forward_tile<Columns, Cluster>(f, tile, rank);
        place = Operands::result_place(f, t.pixel, t.phase, consumer);
        results.begin(f, f.out[t.second], t.pixel, t.column, place);
      });
      results.put(f, f.out[t.second], t.pixel, t.column, place, sums);
    }
    results.end();
  }
  end_cluster<Cluster>();
}

}  // namespace
}  // namespace phx
#endif
