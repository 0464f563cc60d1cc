// Division of counts into parts. Static: each file has copies of its own, since some are compiled for instruction sets that others must not
// use.
#pragma once

namespace phx {

// a/b, rounded up; a >= 0, b > 0.
template <class A, class B>
[[maybe_unused]] static constexpr auto ceil_div(A a, B b) {
  return (a + b - 1) / b;
}
// The smallest multiple of `step` that is at least a.
template <class A, class B>
[[maybe_unused]] static constexpr auto round_up(A a, B step) {
  return ceil_div(a, step) * step;
}

}  // namespace phx
