#include "kernels/context.h"

#include "kernels/device.h"

namespace phx {

Context::~Context() { device_release(block_); }

real* Context::scratch(size_t count) {
  if (count > capacity_) {
    device_release(block_);
    block_ = nullptr, capacity_ = 0;
    block_ = device_allocate(count);
    capacity_ = count;
  }
  return block_;
}

}  // namespace phx
