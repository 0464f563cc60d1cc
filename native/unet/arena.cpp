#include "unet/arena.h"

#include <cstdint>
#include <stdexcept>

#include "kernels/device.h"

namespace phx {

namespace {
constexpr size_t kStep = 64 / sizeof(float);  // a multiple of 64 bytes in either precision
}

Arena::~Arena() { device_release(block_); }

// A dry arena hands out addresses that nothing may touch.
real* Arena::base() const { return block_ ? block_ : reinterpret_cast<real*>(uintptr_t(1) << 20); }

real* Arena::take(size_t count) {
  size_t need = round_up(count, kStep), at = 0;
  for (const auto& [offset, size] : used_) {
    if (offset - at >= need) break;
    at = offset + size;
  }
  if (block_ && at + need > capacity_) throw std::logic_error("arena: the run needs more memory than its dry run did");
  used_[at] = need;
  if (at + need > high_water_) high_water_ = at + need;
  return base() + at;
}

void Arena::release(real* place) { used_.erase(size_t(place - base())); }

void Arena::commit(size_t count) {
  reset();
  device_release(block_);
  block_ = nullptr, capacity_ = 0;
  block_ = device_allocate(count);
  capacity_ = count;
}

void Arena::reset() {
  used_.clear();
  high_water_ = 0;
}

}  // namespace phx
