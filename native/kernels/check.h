// Checks of arguments: one that fails throws std::invalid_argument with both sides in its text.
#pragma once
#include <stdexcept>
#include <string>

#include "kernels/tensor.h"

namespace phx {

[[noreturn]] inline void fail(const std::string& what) { throw std::invalid_argument(what); }

inline void check(bool ok, const char* op, const std::string& expected) {
  if (!ok) fail(std::string(op) + ": expected " + expected);
}

inline void check_shape(const char* op, const char* name, const Tensor& t, int n, int h, int w, int c) {
  if (t.n != n || t.h != h || t.w != w || t.c != c)
    fail(std::string(op) + ": " + name + " is " + shape_of(t) + ", expected " + shape_of({nullptr, n, h, w, c, c}));
}

}  // namespace phx
