// What a Session needs of the device that its ops run on: memory, copies to, from and within it, and programs. `host/device.cpp` is the
// CPU, where the device's memory is the host's; `cuda/runtime/device.cpp` a GPU. Host code reaches a device's memory only through these
// functions.
// Calls return when the host's side of them is done (its memory may be reused); the device does its work in the order of the calls.
// A failed call throws: OutOfMemory, or std::runtime_error with the driver's reason.
#pragma once
#include <cstddef>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "kernels/context.h"
#include "kernels/tensor.h"

namespace phx {

// Of the device's memory: names the bytes wanted and free, where the device knows them.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::string what) : what_(std::move(what)) {}
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  std::string what_;
};

// 64-byte aligned, contents undefined.
real* device_allocate(size_t count);
// The same in bytes, zeros; called on the JS thread, so it must not take longer for a large block than for a small one.
void* device_allocate_zeros(size_t bytes);
void device_release(void*);  // null is allowed

void device_put(void* to, const void* from_host, size_t bytes);
void device_get(void* to_host, const void* from, size_t bytes);  // waits for the work that `from` comes from
void device_copy(real* to, const real* from, size_t count);      // ranges are equal or do not overlap
void device_fill(real* to, real value, size_t count);
void device_wait();  // until all work is done
// Bytes that device_put and device_get have copied in this process; 0 where the device's memory is the host's.
size_t device_copied();

// True where the device's memory is the host's, and its work is done when a call returns.
extern const bool device_is_host;

// A range of the device's memory as the host sees it: on the CPU that memory itself, on a GPU a copy, which `put_back` writes to the
// device.
class OnHost {
 public:
  // fetch: with the values that the device has there; otherwise they are undefined.
  OnHost(real* at, size_t count, bool fetch);
  OnHost(const real* at, size_t count) : OnHost(const_cast<real*>(at), count, true) {}
  real* data() const { return data_; }
  void put_back();

 private:
  real* const at_;
  const size_t count_;
  std::vector<real> copy_;
  real* data_;
};

// The backward pass of a step. While one lives, a device may run gradients of parameters on a side stream, and compute their last sums
// later, many at once: they are there after `finish`. Without one, gradients are there when an op returns. At most one for a Context at a
// time.
class BackwardStage {
 public:
  explicit BackwardStage(Context&);
  ~BackwardStage();  // what has not been finished is dropped
  BackwardStage(const BackwardStage&) = delete;
  BackwardStage& operator=(const BackwardStage&) = delete;
  // Of an op that has gradients of parameters, after its run: `used` holds the tensors that it read. They must stay until the next such op
  // has run, since a side stream may still read them. Dropped at once where there is none.
  void keep(std::function<void()> used);
  void finish();

 private:
  [[maybe_unused]] Context& context_;
  std::function<void()> kept_;
};

// Device work that is the same each time but for what it reads in the device's memory. On a GPU the first run is an ordinary one, the
// second records it (a CUDA graph) and later ones replay the record: what the work does on the host is not done again, and all addresses
// stay.
// Between the first run and the last the work must not allocate device memory. On the CPU every run is an ordinary one.
class Program {
 public:
  Program() = default;
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  void run(const std::function<void()>& work);
  // How often any Program of this process was replayed.
  static size_t replays();

 private:
  bool ran_ = false;
  void* graph_ = nullptr;
};

// What computing in bf16 is on this device: ops take tensors of Type::bf16; or tensors are reals, and factors are rounded as they are
// multiplied (Context::products), without gradients; or there is no such thing.
enum class Bf16 { none, products, tensors };
Bf16 device_bf16();

// What the device is, or why there is none; `usable` says which. Neither throws.
struct DeviceState {
  bool usable;
  std::string text;
};
const DeviceState& device_state();

}  // namespace phx
