#include "unet/memory.h"

namespace phx {

Buffer::Buffer(size_t count) : data(static_cast<real*>(device_allocate_zeros(count * sizeof(real)))), count(count) {}
Buffer::~Buffer() { device_release(data); }

Block::~Block() { device_release(data_); }

void Block::reserve(size_t bytes) {
  if (bytes <= bytes_) return;
  device_release(data_);
  data_ = nullptr, bytes_ = 0;
  data_ = static_cast<char*>(device_allocate_zeros(bytes));
  bytes_ = bytes;
}

Images::Images(size_t count, int height, int width, int channels)
    : count(count), height(height), width(width), channels(channels), block(bytes()) {}

std::vector<real> values_of(const Tensor& t) {
  std::vector<real> values(t.size());
  device_get(values.data(), t.data, values.size() * sizeof(real));
  return values;
}

double mean_of(const Tensor& t) {
  double sum = 0;
  for (real value : values_of(t)) sum += value;
  return sum / double(t.size());
}

}  // namespace phx
