// Launchers of attention.
#include "kernels/cuda/attention.cuh"

#include <cmath>

#include "kernels/cuda/runtime/launch.h"
#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {
namespace {

const Kernel<AttentionForward> attention_forward_kernel("attention_forward_kernel");
const Kernel<AttentionBackward> attention_query_gradient_kernel("attention_query_gradient_kernel");
const Kernel<AttentionBackward> attention_key_gradient_kernel("attention_key_gradient_kernel");

// On tensor cores, for heads of up to `width` channels.
struct Flash {
  const int width;
  const Kernel<AttentionForward> forward;
  const Kernel<AttentionBackward> query_gradient, key_gradient;
  Flash(int width, const char* forward, const char* query_gradient, const char* key_gradient)
      : width(width),
        forward(forward, {.shared_bytes = flash_forward_bytes(width)}),
        query_gradient(query_gradient, {.shared_bytes = flash_query_gradient_bytes(width)}),
        key_gradient(key_gradient, {.shared_bytes = flash_key_gradient_bytes(width)}) {}
};
const Flash flash[] = {{64, "flash_forward_64_kernel", "flash_query_gradient_64_kernel", "flash_key_gradient_64_kernel"},
                       {128, "flash_forward_128_kernel", "flash_query_gradient_128_kernel", "flash_key_gradient_128_kernel"},
                       {256, "flash_forward_256_kernel", "flash_query_gradient_256_kernel", "flash_key_gradient_256_kernel"}};

// The kernels on tensor cores for these tensors, null if they do not suit them.
const Flash* flash_for(const Tensor& o, int heads, std::initializer_list<Tensor> tensors) {
  constexpr int kMaxBlocks = 65535;
  int width = o.c / heads;
  if (width % 8 || o.n * heads > kMaxBlocks) return nullptr;
  for (const Tensor& t : tensors)
    if (!is_aligned_bf16(t)) return nullptr;
  for (const Flash& f : flash)
    if (width <= f.width) return &f;
  return nullptr;
}
Blocks flash_grid(const Tensor& o, int heads, int own) { return {ceil_div(size_t(o.h) * o.w, size_t(own)), unsigned(o.n * heads)}; }

real scale_of(const Tensor& o, int heads) { return real(1 / std::sqrt(double(o.c / heads))); }

}  // namespace

void attention_forward(Context&, Tensor o, Tensor lse, Tensor qkv, int heads) {
  shapes::attention_forward(o, lse, qkv, heads);
  AttentionForward parameters{view(o), view(lse), view(qkv), heads, scale_of(o, heads)};
  if (const Flash* f = flash_for(o, heads, {o, qkv})) return f->forward(flash_grid(o, heads, kFlashQueries), kFlashThreads, parameters);
  attention_forward_kernel({o.rows() * heads}, kElementThreads, parameters);
}

void attention_backward(Context& ctx, Tensor dqkv, Tensor d_o, Tensor lse, Tensor qkv, Tensor o, int heads) {
  shapes::attention_backward(dqkv, d_o, lse, qkv, o, heads);
  real* delta = ctx.scratch(o.rows() * heads);
  AttentionBackward parameters{view(dqkv), view(d_o), view(lse), view(qkv), view(o), delta, heads, scale_of(o, heads)};
  if (const Flash* f = flash_for(o, heads, {dqkv, d_o, qkv, o})) {
    f->query_gradient(flash_grid(o, heads, kFlashQueries), kFlashThreads, parameters);
    f->key_gradient(flash_grid(o, heads, kFlashKeys), kFlashThreads, parameters);
    return;
  }
  attention_query_gradient_kernel({o.rows() * heads}, kElementThreads, parameters);
  attention_key_gradient_kernel({o.rows() * heads}, kElementThreads, parameters);
}

}  // namespace phx
