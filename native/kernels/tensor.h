// A Tensor is a view: a pointer and four sizes, (N,H,W,C) with the channel fastest. It owns nothing.
// `ld` is the distance between two neighbouring pixels, so a slice of channels is a view too (a row of a matrix is a pixel).
// Values are reals; on a GPU activations, and the copy of the weights that they are multiplied with, may be bf16 instead (`type`).
// A matrix (rows, columns) is (rows,1,1,columns); a vector of C values is (1,1,1,C); a 3x3 weight (K,R,S,C) is n=K h=R w=S c=C.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/divide.h"

namespace phx {

#ifdef PHOENIX_REF
using real = double;  // the definitions: every op in plain loops, double precision
#else
using real = float;
#endif

enum class Type { real, bf16 };
// The bits of a bfloat16 (bf16.h, cuda.cuh): a type of its own, so that no pointer to it is taken for one to something else.
enum class BFloat16 : uint16_t {};

struct Tensor {
  real* data = nullptr;
  int n = 0, h = 1, w = 1, c = 0;
  int ld = 0;
  Type type = Type::real;

  explicit operator bool() const { return data != nullptr; }
  size_t rows() const { return size_t(n) * h * w; }
  size_t size() const { return rows() * c; }
  bool contiguous() const { return ld == c; }
  // The memory of a tensor of Type::bf16.
  BFloat16* bf16() const { return reinterpret_cast<BFloat16*>(data); }
  real* row(size_t i) const { return data + i * size_t(ld); }
  // Channels [first, first + count) of every pixel.
  Tensor channels(int first, int count) const {
    real* at = type == Type::real ? data + first : reinterpret_cast<real*>(bf16() + first);
    return {at, n, h, w, count, ld, type};
  }
};

// Reals of memory that `count` values take.
inline size_t reals_of(Type type, size_t count) { return type == Type::real ? count : ceil_div(count * sizeof(BFloat16), sizeof(real)); }

inline Tensor tensor(real* data, int n, int h, int w, int c, Type type = Type::real) { return {data, n, h, w, c, c, type}; }
inline Tensor matrix(real* data, int rows, int columns) { return {data, rows, 1, 1, columns, columns}; }
inline Tensor vector(real* data, int size) { return {data, 1, 1, 1, size, size}; }

// The gradient of an op's input: `+=` when accumulate is set, `=` otherwise. An empty tensor means: not wanted.
struct Grad {
  Tensor t;
  bool accumulate = false;
  explicit operator bool() const { return bool(t); }
};

inline bool same_shape(const Tensor& a, const Tensor& b) { return a.n == b.n && a.h == b.h && a.w == b.w && a.c == b.c; }
inline std::string shape_of(const Tensor& t) {
  return "(" + std::to_string(t.n) + "," + std::to_string(t.h) + "," + std::to_string(t.w) + "," + std::to_string(t.c) + ")";
}

}  // namespace phx
