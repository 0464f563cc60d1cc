// The CPU as a device: its memory is the host's.
#include "kernels/device.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/isa.h"
#include "kernels/ops.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace phx {

namespace {
constexpr size_t kBoundary = 64;

// Asks for pages of 2 MB where the system gives them to who asks (Linux: "madvise"): a Winograd block writes to 72 pages of 4 KB by turns,
// as many as Zen 4's first translation buffer holds.
void prefer_large_pages([[maybe_unused]] char* block, [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 4096;
  uintptr_t first = round_up(reinterpret_cast<uintptr_t>(block), kPage), past = reinterpret_cast<uintptr_t>(block) + bytes;
  if (bytes >= size_t(4) << 20) madvise(reinterpret_cast<void*>(first), past - first, MADV_HUGEPAGE);
#endif
}
}  // namespace

// From calloc, whose large blocks are the system's fresh pages: made at once, where filling 143 MB takes 80 ms. The address that calloc
// gave lies just before the boundary that the values begin at.
void* device_allocate_zeros(size_t bytes) {
  char* block = static_cast<char*>(std::calloc(1, bytes + 2 * kBoundary));
  if (!block) throw OutOfMemory("not enough memory: " + std::to_string(bytes) + " bytes wanted");
  prefer_large_pages(block, bytes + 2 * kBoundary);
  char* values = block + 2 * kBoundary - reinterpret_cast<uintptr_t>(block) % kBoundary;
  std::memcpy(values - sizeof block, &block, sizeof block);
  return values;
}

real* device_allocate(size_t count) { return static_cast<real*>(device_allocate_zeros(count * sizeof(real))); }

void device_release(void* values) {
  if (!values) return;
  char* block;
  std::memcpy(&block, static_cast<char*>(values) - sizeof block, sizeof block);
  std::free(block);
}

void device_put(void* to, const void* from_host, size_t bytes) { std::memmove(to, from_host, bytes); }
void device_get(void* to_host, const void* from, size_t bytes) { std::memmove(to_host, from, bytes); }
void device_copy(real* to, const real* from, size_t count) { std::memmove(to, from, count * sizeof(real)); }
void device_fill(real* to, real value, size_t count) { std::fill(to, to + count, value); }

void device_wait() {}
size_t device_copied() { return 0; }
extern const bool device_is_host = true;

OnHost::OnHost(real* at, size_t count, bool) : at_(at), count_(count), data_(at) {}
void OnHost::put_back() {}

Program::~Program() = default;
void Program::run(const std::function<void()>& work) { work(); }
size_t Program::replays() { return 0; }

// Nothing is deferred: starting a sum costs nothing here.
BackwardStage::BackwardStage(Context& context) : context_(context) {}
BackwardStage::~BackwardStage() = default;
void BackwardStage::keep(std::function<void()>) {}
void BackwardStage::finish() {}

// The definitions have no instruction set: they are in double alone.
Bf16 device_bf16() { return sizeof(real) == sizeof(float) && bf16_products() ? Bf16::products : Bf16::none; }

const DeviceState& device_state() {
  static const DeviceState state{true, "CPU"};
  return state;
}

}  // namespace phx
