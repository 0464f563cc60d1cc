// Standard normals from Philox words, by Box and Muller 1958: words w0,w1 give z0,z1 and words w2,w3 give z2,z3 with
//   r = √(-2 ln((w0 + 1)/2³²))   θ = 2π·w1/2³²   z0 = r cos θ   z1 = r sin θ.
// Computed in double by every build, so that the float builds hold the definition's values, rounded: about 20 ns a normal, 60 µs an image
// of 32x32x3, which is below a thousandth of its training step.
#pragma once
#include <cmath>

#include "kernels/philox.h"
#include "kernels/tensor.h"

namespace phx {

// The normals of one image in element order: numbers 4j..4j+3 come from the words of counter {j, c1, c2, purpose}.
class NormalStream {
 public:
  NormalStream(uint64_t key, uint32_t c1, uint32_t c2, Purpose purpose) : key_(key), c1_(c1), c2_(c2), purpose_(purpose) {}

  real next() {
    if (used_ == 4) refill();
    return real(z_[used_++]);
  }

 private:
  void refill() {
    Words words = philox(key_, j_++, c1_, c2_, purpose_);
    for (int i = 0; i < 4; i += 2) {
      double r = std::sqrt(-2 * std::log((words.w[i] + 1.0) * 0x1p-32));
      double theta = 2 * 3.14159265358979323846 * (words.w[i + 1] * 0x1p-32);
      z_[i] = r * std::cos(theta);
      z_[i + 1] = r * std::sin(theta);
    }
    used_ = 0;
  }

  uint64_t key_;
  uint32_t c1_, c2_;
  Purpose purpose_;
  uint32_t j_ = 0;
  int used_ = 4;
  double z_[4];
};

}  // namespace phx
