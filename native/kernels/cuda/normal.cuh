// normal.h's standard normals on the device, to float's accuracy: number e of an image, out of the words of counter {e/4, c1, c2, purpose}.
#pragma once
#include "kernels/cuda/cuda.cuh"

namespace phx {

#ifdef __CUDACC__
__device__ inline float normal(uint64_t key, size_t e, uint32_t c1, uint32_t c2, Purpose purpose) {
  Words words = philox(key, uint32_t(e / 4), c1, c2, purpose);
  bool second = e % 4 >= 2;
  uint32_t w = second ? words.w[2] : words.w[0];
  // ln u of u = (w + 1)/2³² by the distance to 1 where that is the smaller: 1 - u is exact in its leading digits, a rounded u is not.
  float ln = w < 0x80000000u ? logf((w + 1) * 0x1p-32f) : log1pf((0xFFFFFFFFu - w) * -0x1p-32f);
  float r = sqrtf(-2 * ln);
  double half_turns = 2 * ((second ? words.w[3] : words.w[1]) * 0x1p-32);
  return float(r * (e % 2 ? sinpi(half_turns) : cospi(half_turns)));
}
#endif

}  // namespace phx
