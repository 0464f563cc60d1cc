// Launchers of the products on Hopper's tensor cores.
#include "wgmma_product.cuda.h"

#include <type_traits>

namespace phx {
namespace {

// A kernel for each width of a tile.
template <class Parameters>
struct Widths {
  static constexpr bool kStaged = std::is_same_v<Parameters, WgmmaForward>;
  const Kernel<Parameters> narrow, middle, wide;
  Widths(const char* name64, const char* name128, const char* name256)
      : narrow(name64, needs(64)), middle(name128, needs(128)), wide(name256, needs(256)) {}
  static KernelNeeds needs(int columns, unsigned cluster = 1) { return {90, unsigned(wgmma_shared_bytes(columns, kStaged)), cluster}; }
  void operator()(const WgmmaPlan<Parameters>& plan) const {
    const Kernel<Parameters>& kernel = plan.columns == 64 ? narrow : plan.columns == 128 ? middle : wide;
    kernel({size_t(std::min(plan.tiles, multiprocessors()))}, kWgmmaThreads, plan.parameters);
  }
};
// The same for pairs of blocks, which narrow tiles are not worth.
struct PairWidths : Widths<WgmmaForward> {
  const Kernel<WgmmaForward> middle_pair, wide_pair;
  PairWidths(const char* name64, const char* name128, const char* name256, const char* pair128, const char* pair256)
      : Widths(name64, name128, name256), middle_pair(pair128, needs(128, 2)), wide_pair(pair256, needs(256, 2)) {}
  void operator()(const WgmmaPlan<WgmmaForward>& plan) const {
    if (!plan.pairs) return Widths::operator()(plan);
    const Kernel<WgmmaForward>& kernel = plan.columns == 128 ? middle_pair : wide_pair;
    kernel({size_t(std::min(plan.tiles, multiprocessors() / 2 * 2))}, kWgmmaThreads, plan.parameters);
  }
};
const PairWidths forward_kernel("wgmma_forward_64_kernel", "wgmma_forward_128_kernel", "wgmma_forward_256_kernel",
                                "wgmma_forward_128_pair_kernel", "wgmma_forward_256_pair_kernel");
const PairWidths input_gradient_kernel("wgmma_input_gradient_64_kernel", "wgmma_input_gradient_128_kernel",
                                       "wgmma_input_gradient_256_kernel", "wgmma_input_gradient_128_pair_kernel",
                                       "wgmma_input_gradient_256_pair_kernel");
const Widths<WgmmaWeightGradient> weight_gradient_kernel("wgmma_weight_gradient_64_kernel", "wgmma_weight_gradient_128_kernel",
                                                         "wgmma_weight_gradient_256_kernel");

}  // namespace

void wgmma_conv2d_forward(Tensor y, Tensor x, Tensor temb, Tensor residual, const Shortcut& shortcut, Tensor w, Tensor b, Conv2d a) {
  forward_kernel(plan_conv2d_forward(y, x, temb, residual, shortcut, w, b, a));
}
void wgmma_conv2d_input_gradient(Grad dx, Tensor dy, Tensor w, Conv2d a) {
  input_gradient_kernel(plan_conv2d_input_gradient(dx, dy, w, a));
}
void wgmma_linear_forward(Tensor y, Tensor x0, Tensor x1, Tensor residual, Tensor w, Tensor b) {
  forward_kernel(plan_linear_forward(y, x0, x1, residual, w, b));
}
void wgmma_linear_input_gradient(Grad dx0, Grad dx1, Tensor dy, Tensor w, int columns0) {
  input_gradient_kernel(plan_linear_input_gradient(dx0, dx1, dy, w, columns0));
}

void wgmma_weight_gradient(WgmmaPlan<WgmmaWeightGradient> plan, GradientParts parts) {
  plan.parameters.parts = parts;
  weight_gradient_kernel(plan);
}

}  // namespace phx
