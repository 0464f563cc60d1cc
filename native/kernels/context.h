// What every op gets: how many threads it may use, in which type it multiplies, and scratch memory that lives until the next call of
// `scratch`.
#pragma once
#include <cstddef>
#include <memory>

#include "kernels/tensor.h"

namespace phx {

// What a device keeps with a Context (device.h).
struct DeviceData {
  virtual ~DeviceData() = default;
};

class Context {
 public:
  explicit Context(int threads, Type products = Type::real) : threads_(threads < 1 ? 1 : threads), products_(products) {}
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  int threads() const { return threads_; }
  // bf16: in the forward pass, linear layers, convolutions of stride 2 and attention round the factors of their products to bf16. Tensors
  // and sums stay reals. For inference only, on a device of Bf16::products (device.h).
  Type products() const { return products_; }

  // At least `count` reals of device memory, 64-byte aligned, contents undefined, shared by all threads of the op; grows, never shrinks: a
  // second step of equal shape does not allocate. A second call may move the block: an op calls it once for each of its phases.
  real* scratch(size_t count);
  const real* block() const { return block_; }

  // The device's own; nothing where the device's memory is the host's.
  std::unique_ptr<DeviceData> device_data;

 private:
  int threads_;
  Type products_;
  real* block_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace phx
