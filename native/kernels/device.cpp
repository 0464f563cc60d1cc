// The CPU as a device: its memory is the host's.
#include "device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace phx {

real* device_allocate(size_t count) {
  void* block = std::aligned_alloc(64, (std::max<size_t>(count, 1) * sizeof(real) + 63) / 64 * 64);
  if (!block) throw std::bad_alloc();
  return static_cast<real*>(block);
}

void device_release(real* block) { std::free(block); }

void device_put(void* to, const void* from_host, size_t bytes) { std::memmove(to, from_host, bytes); }
void device_get(void* to_host, const void* from, size_t bytes) { std::memmove(to_host, from, bytes); }
void device_copy(real* to, const real* from, size_t count) { std::memmove(to, from, count * sizeof(real)); }
void device_fill(real* to, real value, size_t count) { std::fill(to, to + count, value); }

const DeviceState& device_state() {
  static const DeviceState state{true, "CPU"};
  return state;
}

}  // namespace phx
