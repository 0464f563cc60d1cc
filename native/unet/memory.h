// Memory of the device that ops run on, held by whoever trains or draws: parameter vectors, blocks of bytes, images.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/device.h"

namespace phx {

// A vector of parameters in the device's memory, shared by a Trainer and the handles to it.
class Buffer {
 public:
  explicit Buffer(size_t count);  // zeros; throws std::bad_alloc
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  real* const data;
  const size_t count;
};
using BufferPtr = std::shared_ptr<Buffer>;

// Bytes in the device's memory, zeros at first; throws std::bad_alloc. `reserve` makes room for at least so many. If it has to move them,
// their contents are lost.
class Block {
 public:
  explicit Block(size_t bytes = 0) { reserve(bytes); }
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  void reserve(size_t bytes);
  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

// A resident set of images, (count, height, width, channels) u8.
struct Images {
  Images(size_t count, int height, int width, int channels);  // zeros; throws std::bad_alloc
  const size_t count;
  const int height, width, channels;
  const Block block;
  size_t bytes() const { return count * height * width * channels; }
  const uint8_t* pixels() const { return reinterpret_cast<const uint8_t*>(block.data()); }
};

// The values of a contiguous tensor, and their mean.
std::vector<real> values_of(const Tensor& t);
double mean_of(const Tensor& t);

// Puts values into the contiguous tensor t of reals, whatever their own type.
template <class T>
void assign(Tensor t, const T* values) {
  std::vector<real> staged(values, values + t.size());
  device_put(t.data, staged.data(), staged.size() * sizeof(real));
}

}  // namespace phx
