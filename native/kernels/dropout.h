// Which elements dropout keeps, and what it multiplies them by; ops.h states the rule, group_norm.simd.cpp follows it many at once.
#pragma once
#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/ops.h"
#include "kernels/philox.h"

namespace phx {

struct DropoutRule {
  Dropout dropout;
  uint32_t threshold;  // an element is kept when its 16 bits are >= threshold
  real factor;         // 1 / share kept

  explicit DropoutRule(Dropout d) : dropout(d) {
    check(d.p >= 0 && d.p < 1, "dropout", "0 <= p < 1");
    threshold = std::min(65535u, uint32_t(std::lround(d.p * 65536.0)));
    factor = real(65536.0 / (65536 - threshold));
  }

  bool active() const { return threshold > 0; }

  // 0 or `factor`, for the element at row-major index `element`. Where the device's memory is the host's.
  real kept(size_t element) const {
    if (!active()) return 1;
    Words words = philox(dropout.draw->key, uint32_t(element / 8), dropout.layer, dropout.draw->step, Purpose::dropout);
    uint32_t half = words.w[element % 8 / 2] >> (element % 2 * 16) & 0xFFFF;
    return half >= threshold ? factor : 0;
  }
};

}  // namespace phx
