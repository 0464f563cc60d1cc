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
// Of the first `count` values alone: the others of the vector are 0, those in memory stay as they are.
PHX_INLINE Vec load_some(const float* p, int count) {
  Vec v{};
  for (int i = 0; i < count; i++) v[i] = p[i];
  return v;
}
PHX_INLINE void store_some(float* p, Vec v, int count) {
  for (int i = 0; i < count; i++) p[i] = v[i];
}
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
// eˣ to about 1 unit in the last place; x is kept within [-87, 88].
#if defined(__AVX512F__)
// x = n·ln2/16 + r, |r| <= ln2/32: sixteen powers 2^(k/16) fit one register, and degree 3 is enough for eʳ: two thirds of the
// multiplications of what follows below. n·ln2/16 is not rounded (FMA); the constant's own error grows with x, to 3 units at the ends.
PHX_INLINE Vec vexp(Vec x) {
  constexpr Vec powers = {1.0f,        1.04427378f, 1.09050773f, 1.13878863f, 1.18920712f, 1.24185781f, 1.29683955f, 1.35425555f,
                          1.41421356f, 1.47682615f, 1.54221083f, 1.61049033f, 1.68179283f, 1.75625216f, 1.83400809f, 1.91520656f};
  x = vmin(vmax(x, set1(-87.0f)), set1(88.0f));
  Vec shifted = x * 23.0831206542234f + 12582912.0f;  // rounds to an integer n in the low mantissa bits
  Vec r = x - (shifted - 12582912.0f) * 0.0433216987849966f;
  Vec p = (r * 1.6666667e-1f + 0.5f) * r + 1.0f;
  Vec power = (Vec)_mm512_maskz_permutexvar_ps(0xFFFF, (__m512i)shifted, (__m512)powers);  // of n's last four bits
  return (Vec)((VecI)(power + power * (p * r)) + (((VecI)shifted & ~15) << 19));           // the others are the exponent
}
#else
// x = n·ln2 + r, |r| <= ln2/2, degree-6 polynomial (Cephes expf coefficients), scaled by 2ⁿ.
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
#endif
PHX_INLINE Vec sigmoid(Vec x) { return reciprocal(1.0f + vexp(-x)); }

}  // namespace PHOENIX_ISA
}  // namespace phx
