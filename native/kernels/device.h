// What a Session needs of the device that its ops run on: memory, and copies to, from and within it. `device.cpp` is the CPU, where the
// device's memory is the host's; `device.cuda.cpp` a GPU. Host code reaches a device's memory through these functions only.
// Calls return when the host's side of them is done (its memory may be reused); the device does its work in the order of the calls.
// A failed call throws: std::bad_alloc without memory, std::runtime_error with the driver's reason otherwise.
#pragma once
#include <cstddef>
#include <string>

#include "tensor.h"

namespace phx {

// 64-byte aligned, contents undefined.
real* device_allocate(size_t count);
// The same, zeros; called on the JS thread, so it must not take longer for a large block than for a small one.
real* device_allocate_zeros(size_t count);
void device_release(real*);  // null is allowed

void device_put(void* to, const void* from_host, size_t bytes);
void device_get(void* to_host, const void* from, size_t bytes);  // waits for the work that `from` comes from
void device_copy(real* to, const real* from, size_t count);      // ranges are equal or do not overlap
void device_fill(real* to, real value, size_t count);

// What the device is, or why there is none; `usable` says which. Neither throws.
struct DeviceState {
  bool usable;
  std::string text;
};
const DeviceState& device_state();

}  // namespace phx
