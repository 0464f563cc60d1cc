// Launchers of the products on Hopper's tensor cores.
#include "kernels/cuda/gemm/wgmma_product.h"

#include <algorithm>
#include <span>

#include "kernels/cuda/gemm/dispatch.h"

namespace phx {
namespace {

unsigned shared_bytes(const WgmmaForward*, int columns, bool halo) {
  return unsigned(halo ? wgmma_halo_shared_bytes(columns) : wgmma_shared_bytes(columns, true));
}
unsigned shared_bytes(const WgmmaWeightGradient*, int columns, bool) { return unsigned(wgmma_shared_bytes(columns, false)); }

// The kernel for tiles of that width; for blocks that work in pairs; for pixels copied with their neighbours.
template <class Parameters>
struct Variant {
  int columns;
  bool pairs, halo;
  Kernel<Parameters> kernel;
  Variant(int columns, bool pairs, bool halo, const char* name)
      : columns(columns),
        pairs(pairs),
        halo(halo),
        kernel(name, {90, shared_bytes(static_cast<const Parameters*>(nullptr), columns, halo), pairs ? 2u : 1u}) {}
};
const Variant<WgmmaForward> forward_kernels[] = {
    {64, false, false, "wgmma_forward_64_kernel"},           {128, false, false, "wgmma_forward_128_kernel"},
    {256, false, false, "wgmma_forward_256_kernel"},         {128, true, false, "wgmma_forward_128_pair_kernel"},
    {256, true, false, "wgmma_forward_256_pair_kernel"},     {64, false, true, "wgmma_forward_64_halo_kernel"},
    {128, false, true, "wgmma_forward_128_halo_kernel"},     {256, false, true, "wgmma_forward_256_halo_kernel"},
    {128, true, true, "wgmma_forward_128_halo_pair_kernel"}, {256, true, true, "wgmma_forward_256_halo_pair_kernel"},
};
const Variant<WgmmaForward> input_gradient_kernels[] = {
    {64, false, false, "wgmma_input_gradient_64_kernel"},           {128, false, false, "wgmma_input_gradient_128_kernel"},
    {256, false, false, "wgmma_input_gradient_256_kernel"},         {128, true, false, "wgmma_input_gradient_128_pair_kernel"},
    {256, true, false, "wgmma_input_gradient_256_pair_kernel"},     {64, false, true, "wgmma_input_gradient_64_halo_kernel"},
    {128, false, true, "wgmma_input_gradient_128_halo_kernel"},     {256, false, true, "wgmma_input_gradient_256_halo_kernel"},
    {128, true, true, "wgmma_input_gradient_128_halo_pair_kernel"}, {256, true, true, "wgmma_input_gradient_256_halo_pair_kernel"},
};
const Variant<WgmmaWeightGradient> weight_gradient_kernels[] = {
    {64, false, false, "wgmma_weight_gradient_64_kernel"},       {128, false, false, "wgmma_weight_gradient_128_kernel"},
    {192, false, false, "wgmma_weight_gradient_192_kernel"},     {256, false, false, "wgmma_weight_gradient_256_kernel"},
    {128, true, false, "wgmma_weight_gradient_128_pair_kernel"}, {192, true, false, "wgmma_weight_gradient_192_pair_kernel"},
    {256, true, false, "wgmma_weight_gradient_256_pair_kernel"},
};

template <class Parameters>
void start(std::span<const Variant<Parameters>> variants, const WgmmaPlan<Parameters>& plan) {
  auto planned = [&](const Variant<Parameters>& v) { return v.columns == plan.columns && v.pairs == plan.pairs && v.halo == plan.halo; };
  int most = plan.pairs ? multiprocessors() / 2 * 2 : multiprocessors();
  std::ranges::find_if(variants, planned)->kernel({size_t(std::min(plan.tiles, most))}, kWgmmaThreads, plan.parameters);
}
void start_forward(const WgmmaPlan<WgmmaForward>& plan) { start<WgmmaForward>(forward_kernels, plan); }
void start_input_gradient(const WgmmaPlan<WgmmaForward>& plan) { start<WgmmaForward>(input_gradient_kernels, plan); }

}  // namespace

void wgmma_conv2d_forward(Tensor y, Tensor x, Tensor temb, Tensor residual, const Shortcut& shortcut, Tensor w, Tensor b, Conv2d a) {
  start_forward(plan_conv2d_forward(y, x, temb, residual, shortcut, w, b, a, {.halo = halo_allowed()}));
}
void wgmma_conv2d_input_gradient(Grad dx, Tensor dy, Tensor w, Conv2d a) {
  start_input_gradient(plan_conv2d_input_gradient(dx, dy, w, a, {.halo = halo_allowed()}));
}
void wgmma_linear_forward(Tensor y, Tensor x0, Tensor x1, Tensor residual, Tensor w, Tensor b) {
  start_forward(plan_linear_forward(y, x0, x1, residual, w, b));
}
void wgmma_linear_input_gradient(Grad dx0, Grad dx1, Tensor dy, Tensor w, int columns0) {
  start_input_gradient(plan_linear_input_gradient(dx0, dx1, dy, w, columns0));
}

void wgmma_weight_gradient(WgmmaPlan<WgmmaWeightGradient> plan, GradientParts parts) {
  plan.parameters.parts = parts;
  start<WgmmaWeightGradient>(weight_gradient_kernels, plan);
}

}  // namespace phx
