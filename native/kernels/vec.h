// One vector register of floats, for the `*.simd.cpp` files only: each of those is compiled once per instruction set (CMakeLists.txt),
// into a namespace of its own (PHOENIX_ISA: avx512, avx2 or portable), so nothing here or there may be shared inline code such as
// std:: templates: the linker would merge copies made for different machines. GCC and Clang vector extensions; a·b + c
// contracts to an FMA.
#pragma once
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace phx {
namespace PHOENIX_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int VecI __attribute__((vector_size(4 * kLanes)));
typedef unsigned VecU __attribute__((vector_size(4 * kLanes)));
typedef float VecMem __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

#define PHX_INLINE static inline __attribute__((always_inline))

PHX_INLINE Vec load(const float* p) { return *(const VecMem*)p; }
PHX_INLINE void store(float* p, Vec v) { *(VecMem*)p = v; }
PHX_INLINE Vec set1(float x) { return x - Vec{}; }
PHX_INLINE Vec select(VecI mask, Vec a, Vec b) { return (Vec)((mask & (VecI)a) | (~mask & (VecI)b)); }
// The compilers make neither a minimum nor a reciprocal estimate out of vector extensions, so these two are intrinsics where there are any.
// reciprocal: 1/x to about 1 unit in the last place, the estimate and Newton's step (x·r rounds once in the FMA), cheaper than a division.
#if defined(__AVX512F__)
PHX_INLINE Vec vmax(Vec a, Vec b) { return (Vec)_mm512_maskz_max_ps(0xFFFF, (__m512)a, (__m512)b); }
PHX_INLINE Vec vmin(Vec a, Vec b) { return (Vec)_mm512_maskz_min_ps(0xFFFF, (__m512)a, (__m512)b); }
PHX_INLINE Vec reciprocal(Vec x) {
  Vec r = (Vec)_mm512_maskz_rcp14_ps(0xFFFF, (__m512)x);
  return r + r * (1.0f - x * r);
}
#elif defined(__AVX2__)
PHX_INLINE Vec vmax(Vec a, Vec b) { return (Vec)_mm256_max_ps((__m256)a, (__m256)b); }
PHX_INLINE Vec vmin(Vec a, Vec b) { return (Vec)_mm256_min_ps((__m256)a, (__m256)b); }
PHX_INLINE Vec reciprocal(Vec x) { return 1.0f / x; }
#elif defined(__SSE2__)
PHX_INLINE Vec vmax(Vec a, Vec b) { return (Vec)_mm_max_ps((__m128)a, (__m128)b); }
PHX_INLINE Vec vmin(Vec a, Vec b) { return (Vec)_mm_min_ps((__m128)a, (__m128)b); }
PHX_INLINE Vec reciprocal(Vec x) { return 1.0f / x; }
#else
PHX_INLINE Vec vmax(Vec a, Vec b) { return select(a > b, a, b); }
PHX_INLINE Vec vmin(Vec a, Vec b) { return select(a < b, a, b); }
PHX_INLINE Vec reciprocal(Vec x) { return 1.0f / x; }
#endif
PHX_INLINE float sum(Vec v) {  // pairwise, always in the same order
  float t[kLanes];
  store(t, v);
  for (int w = kLanes / 2; w; w /= 2)
    for (int i = 0; i < w; i++) t[i] += t[i + w];
  return t[0];
}
// eˣ to about 1 unit in the last place: x = n·ln2 + r, |r| <= ln2/2, degree-6 polynomial (Cephes expf coefficients), scaled by 2ⁿ.
PHX_INLINE Vec vexp(Vec x) {
  x = vmin(vmax(x, set1(-87.0f)), set1(88.0f));
  Vec shifted = x * 1.44269504088896341f + 12582912.0f;  // rounds to an integer in the low mantissa bits
  Vec n = shifted - 12582912.0f;
  Vec r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  VecI e = ((VecI)shifted - 0x4B400000 + 127) << 23;
  return p * (Vec)e;
}
PHX_INLINE Vec sigmoid(Vec x) { return reciprocal(1.0f + vexp(-x)); }

}  // namespace PHOENIX_ISA
}  // namespace phx
