// bfloat16 on the host: the upper half of a float, rounded to nearest even; a NaN stays one.
#pragma once
#include <bit>
#include <cstdint>

#include "kernels/tensor.h"

namespace phx {

inline BFloat16 to_bf16(real x) {
  uint32_t bits = std::bit_cast<uint32_t>(float(x));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return BFloat16(0x7fc0);
  return BFloat16((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}
inline real from_bf16(BFloat16 half) { return real(std::bit_cast<float>(uint32_t(half) << 16)); }

}  // namespace phx
