// 3x3 convolutions of stride 1 and their inputs' gradient on Hopper's tensor cores, on maps that patches of 8x8 pixels cover. A tile of 128
// x N is two patches. Their pixels with those around them (the halo) are copied once for 64 channels and read by all nine taps, where
// wgmma_product.cu copies them nine times: a tap is the same memory, some pixels on. An operand in shared memory may not start at any
// pixel, so pixels go through registers (ldmatrix); the weights come through a ring of their own.
#include "kernels/cuda/conv2d.cuh"
#include "kernels/cuda/gemm/wgmma_tiles.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
namespace phx {
namespace {

constexpr int kWarpsThatRead = kConsumers * 4;

template <int Columns, bool InputGradient, int Cluster>
struct Halo {
  using Pixels = Ring<kHaloBytes, kHaloStages>;
  using Weights = Ring<uint32_t(Columns) * 128, wgmma_halo_stages(Columns)>;
  static constexpr uint32_t kBytes = Pixels::kBytes + Weights::kBytes, kBarrierBytes = Pixels::kBarrierBytes + Weights::kBarrierBytes;
  Pixels pixels;
  Weights weights;

  __device__ Halo(uint32_t base, uint32_t barriers)
      : pixels{base, barriers}, weights{base + Pixels::kBytes, barriers + Pixels::kBarrierBytes} {}
  __device__ void init() const {
    pixels.init(kWarpsThatRead);
    weights.init(kConsumers * Cluster);
  }
  // The shortcut is a tap of its own, whose pixels are copied without a halo.
  static __device__ uint32_t pixel_bytes(const WgmmaForward& f, bool shortcut) {
    int more = shortcut ? 0 : 2;
    return uint32_t(f.pixels.box.n * (f.pixels.box.h + more) * (f.pixels.box.w + more)) * 128;
  }
  static __device__ int taps_of(const WgmmaForward& f, bool shortcut) { return shortcut ? 1 : f.first_tap[1]; }
  static __device__ Tap tap_of(const WgmmaForward& f, bool shortcut, int t) { return shortcut ? Tap{} : f.tap[t]; }

  __device__ void load(const WgmmaForward& f, Pixel p, int, int column, int rank) {
    for (int shortcut = 0; shortcut < 2; shortcut++) {
      const WgmmaOperands& from = shortcut ? f.shortcut : f.window;
      for (int s = 0; s < from.steps; s++) {
        auto [second, channel, of_weights] = channels_of(from, s);
        load_box(pixels.at(), &from.in[second], pixels.begin_load(pixel_bytes(f, shortcut)), channel, p.w - !shortcut, p.h - !shortcut,
                 p.n);
        pixels.advance();
        for (int t = 0; t < taps_of(f, shortcut); t++) {
          uint32_t full = weights.begin_load();
          load_weights<Columns, InputGradient, Cluster>(weights.at(), &from.weights, full, of_weights, tap_of(f, shortcut, t).index, column,
                                                        rank);
          weights.advance();
        }
      }
    }
  }

  // A step of 64 channels in halves, each with registers of its own: one half's products are under way while the pixels of the next are
  // loaded.
  template <class Meanwhile>
  __device__ void accumulate(const WgmmaForward& f, int, int consumer, int thread, float (&sums)[Columns / 2], Meanwhile meanwhile) {
    constexpr uint32_t kStepB = (InputGradient ? 2048 : 32) >> 4;
    int lane = thread % 32, row = thread / 32 * 16 + lane % 16, high = lane / 16;  // what load_blocks wants the address of
    uint32_t a[2][2][4];
    bool begun = false;
    int former = 0;
    for (float& sum : sums) sum = 0;
    for (int shortcut = 0; shortcut < (InputGradient ? 1 : 2); shortcut++) {
      int halo = shortcut ? 0 : 1, width = f.pixels.box.w + 2 * halo;
      int patch = f.pixels.box.n == 1 ? kPatch : width * (kPatch + 2 * halo);  // from a consumer's first pixel to the other's
      int first = consumer * patch + row / kPatch * width + row % kPatch + halo * (width + 1);
      int steps = shortcut ? f.shortcut.steps : f.window.steps;
      for (int s = 0; s < steps; s++) {
        pixels.wait_full();
        for (int t = 0; t < taps_of(f, shortcut); t++) {
          Tap tap = tap_of(f, shortcut, t);
          uint32_t pixel = uint32_t(first + tap.h * width + tap.w), line = pixels.at() + pixel * 128;
          weights.wait_full();
          uint64_t b = operand(weights.at(), kBlockBytes);
#pragma unroll
          for (int half = 0; half < 2; half++) {
            products_wait<1>();  // for those that read a[half]
            if (half == 1 && begun) weights.template release<Cluster>(former, thread);
#pragma unroll
            for (int k = 0; k < 2; k++) sm80::load_blocks(a[half][k], line + (uint32_t(4 * half + 2 * k + high) ^ pixel % 8) * 16);
            products_fence();
#pragma unroll
            for (int k = 0; k < 2; k++) multiply<InputGradient>(sums, a[half][k], b + uint32_t(2 * half + k) * kStepB, 1);
            products_commit();
          }
          if (!begun) meanwhile();
          begun = true;
          former = weights.stage;
          weights.advance();
        }
        __syncwarp();
        if (lane == 0) mbarrier_arrive(pixels.empty(pixels.stage));
        pixels.advance();
      }
    }
    products_wait<0>();
    weights.template release<Cluster>(former, thread);
  }

  // Results are seen as (N, H, W, 1, J).
  static __device__ ResultPlace result_place(const WgmmaForward& f, Pixel p, int, int half) {
    bool beside = f.pixels.box.n == 1;
    return {0, p.w + (beside ? half * kPatch : 0), p.h, p.n + (beside ? 0 : half)};
  }
};

}  // namespace

#define PHOENIX_PRODUCT(name, ...)                                                                              \
  extern "C" __global__ void __launch_bounds__(kWgmmaThreads, 1) name(const __grid_constant__ WgmmaForward p) { \
    forward<__VA_ARGS__, Halo>(p);                                                                              \
  }
// clang-format off
PHOENIX_PRODUCT(wgmma_forward_64_halo_kernel, 64, false, 1)
PHOENIX_PRODUCT(wgmma_forward_128_halo_kernel, 128, false, 1)
PHOENIX_PRODUCT(wgmma_forward_256_halo_kernel, 256, false, 1)
PHOENIX_PRODUCT(wgmma_forward_128_halo_pair_kernel, 128, false, 2)
PHOENIX_PRODUCT(wgmma_forward_256_halo_pair_kernel, 256, false, 2)
PHOENIX_PRODUCT(wgmma_input_gradient_64_halo_kernel, 64, true, 1)
PHOENIX_PRODUCT(wgmma_input_gradient_128_halo_kernel, 128, true, 1)
PHOENIX_PRODUCT(wgmma_input_gradient_256_halo_kernel, 256, true, 1)
PHOENIX_PRODUCT(wgmma_input_gradient_128_halo_pair_kernel, 128, true, 2)
PHOENIX_PRODUCT(wgmma_input_gradient_256_halo_pair_kernel, 256, true, 2)
// clang-format on

}  // namespace phx
#endif
