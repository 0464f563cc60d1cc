// Tensors as checkpoint files hold them: little-endian values of four types, convolutions as (K,C,R·S). In host memory on every device.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace phx {

enum class FileType { f32, f64, f16, bf16 };
size_t bytes_of(FileType);

// Sizes of the file's tensor. The parameter vector holds it as (K,R·S,C); with taps = 1 the two are the same.
struct FileTensor {
  size_t k, c, taps;
  size_t count() const { return k * c * taps; }
};
// y = the tensor's values, in the vector's order
void read_tensor(real* y, const uint8_t* bytes, FileType, FileTensor);
// bytes = x as float32, in the file's order
void write_tensor(float* bytes, const real* x, FileTensor);

}  // namespace phx
