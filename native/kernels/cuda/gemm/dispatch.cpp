// The table of kernels for convolutions and linear layers.
#include "kernels/cuda/gemm/dispatch.h"

#include <algorithm>
#include <cstdlib>

#include "kernels/cuda/conv2d.cuh"
#include "kernels/cuda/gemm/wgmma_plan.h"

namespace phx {
namespace {

bool all_aligned_bf16(const Product& p) {
  const Tensor tensors[] = {p.y, p.x0, p.x1, p.w, p.residual};
  return std::ranges::all_of(tensors, [](const Tensor& t) { return !t || is_aligned_bf16(t); });
}

// Strided or enlarged (with padding, as weights are folded for it), not both; and with a stride, dx in whole phases: as many pixels of it
// as of dy for each.
bool whole_phases(const Product& p) {
  auto [stride, pad, upsample] = *p.window;
  return (upsample == 1 || (stride == 1 && pad == 1)) && (p.pass != Pass::input_gradient || (p.x0.h % stride == 0 && p.x0.w % stride == 0));
}

// Everything in bf16 pieces (temb in pairs), whole phases, and the pixels of the result, or those summed over, in boxes that fill a tile.
bool suits_wgmma(const Product& p) {
  if (!all_aligned_bf16(p)) return false;
  if (p.temb && (p.temb.type != Type::bf16 || p.temb.ld % 2 || uintptr_t(p.temb.data) % 4)) return false;
  int tile = p.pass == Pass::weight_gradient ? kWgmmaDepth : kWgmmaRows;
  if (!p.window) return bool(cover_pixels(1, 1, int(p.y.rows()), tile));
  if (!whole_phases(p)) return false;
  bool to_x = p.pass == Pass::input_gradient;
  const Tensor& out = to_x ? p.x0 : p.y;
  if (halo_allowed() && p.pass != Pass::weight_gradient && reads_neighbours(*p.window) && cover_patches(out.n, out.h, out.w)) return true;
  auto [stride, pad, upsample] = *p.window;
  int phases = to_x ? stride : upsample, step = to_x ? upsample : stride;
  auto tiles = cover_pixels(out.n, out.h / phases, out.w / phases, tile);
  return tiles && tiles->box.w * step <= kMaxCopied && tiles->box.h * step <= kMaxCopied;
}

// Everything in aligned bf16, and whole phases.
bool suits_mma(const Product& p) { return all_aligned_bf16(p) && (!p.temb || is_aligned_bf16(p.temb)) && (!p.window || whole_phases(p)); }

// A plain convolution between a narrow tensor of any type and a wide one in aligned bf16; weights and a block's pixels fit shared memory.
bool suits_narrow(const Product& p) {
  if (!p.window || p.temb || p.residual) return false;
  const Tensor &narrow = p.x0.c < p.y.c ? p.x0 : p.y, &wide = p.x0.c < p.y.c ? p.y : p.x0;
  auto [stride, pad, upsample] = *p.window;
  return narrow.c <= kNarrowMax && is_aligned_bf16(wide) && wide.c <= 8 * int(kElementThreads) &&
         narrow_bytes(narrow.c, wide.c, narrow.w) <= kNarrowShared && stride == 1 && upsample == 1 && pad == 1;
}

bool suits_generic(const Product&) { return true; }

// The first row that suits is taken.
struct Row {
  Family family;
  int architecture;  // of the kernels, at least
  bool (*suits)(const Product&);
};
constexpr Row table[] = {
    {Family::wgmma, 90, suits_wgmma},
    {Family::mma, 80, suits_mma},
    {Family::narrow, 80, suits_narrow},
    {Family::generic, 80, suits_generic},
};

}  // namespace

Family family_of(const Product& p, int architecture) {
  return std::ranges::find_if(table, [&](const Row& row) { return architecture >= row.architecture && row.suits(p); })->family;
}
Family family_of(const Product& p) { return family_of(p, forced_mma_tile() ? 80 : kernel_architecture()); }

bool adds(Family family, const Shortcut& s, Conv2d a) {
  return (family == Family::wgmma || family == Family::mma) && a.stride == 1 && a.upsample == 1 && is_aligned_bf16(s.x0) &&
         (!s.x1 || is_aligned_bf16(s.x1)) && is_aligned_bf16(s.w);
}

int forced_mma_tile() {
  const char* forced = std::getenv("PHOENIX_MMA_TILE");
  return !forced || !*forced ? 0 : std::atoi(forced) == 128 ? 128 : 64;
}

bool halo_allowed() { return allowed("PHOENIX_CUDA_HALO"); }

Blocks grid(ProductSize size) {
  auto tiles = [](int count) { return unsigned(ceil_div(count, kTile)); };
  return {tiles(size.m), tiles(size.n), unsigned(ceil_div(size.k, size.k_step))};
}

}  // namespace phx
