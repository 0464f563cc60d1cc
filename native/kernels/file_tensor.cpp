#include "kernels/file_tensor.h"

#include <cmath>
#include <cstring>

namespace phx {
namespace {

template <class T>
T load(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// IEEE 754 binary16
double half(uint16_t bits) {
  int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                     : exponent     ? std::ldexp(1024 + fraction, exponent - 25)
                                    : std::ldexp(fraction, -24);
  return bits & 0x8000 ? -magnitude : magnitude;
}

double value_at(const uint8_t* at, FileType type) {
  if (type == FileType::f64) return load<double>(at);
  if (type == FileType::f32) return load<float>(at);
  if (type == FileType::f16) return half(load<uint16_t>(at));
  uint32_t bits = uint32_t(load<uint16_t>(at)) << 16;
  return load<float>(reinterpret_cast<const uint8_t*>(&bits));
}

// Position in the file → position in the vector.
size_t in_vector(size_t i, const FileTensor& of) {
  size_t tap = i % of.taps, channel = i / of.taps % of.c, out = i / of.taps / of.c;
  return (out * of.taps + tap) * of.c + channel;
}

}  // namespace

size_t bytes_of(FileType type) { return type == FileType::f64 ? 8 : type == FileType::f32 ? 4 : 2; }

void read_tensor(real* y, const uint8_t* bytes, FileType type, FileTensor of) {
  for (size_t i = 0; i < of.count(); i++) y[in_vector(i, of)] = real(value_at(bytes + i * bytes_of(type), type));
}

void write_tensor(float* bytes, const real* x, FileTensor of) {
  for (size_t i = 0; i < of.count(); i++) bytes[i] = float(x[in_vector(i, of)]);
}

}  // namespace phx
