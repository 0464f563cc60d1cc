// One op by name on guarded buffers: the door for tests and benchmarks (test/cases.ts). Names are those of ops.h.
#pragma once
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/ops.h"

namespace phx {

// A call's tensors by argument name, on the device, each between guard words. `collect` brings them back to the host and inspects the
// guards.
class OpCall {
 public:
  std::map<std::string, double> attributes;

  // Takes values (or none: then the buffer is filled with NaN, to show what the op leaves unwritten). With `repeated`, there may be fewer
  // than the shape has: they are taken again from the start.
  void add(const std::string& name, const double* values, size_t count, const int shape[4], bool repeated = false);
  ~OpCall();
  Tensor tensor(const std::string& name) const;  // empty if the call has no such argument
  Tensor host(const std::string& name) const;    // the same tensor's values as given, on the host
  Grad grad(const std::string& name) const;      // accumulates if the call gave values
  double number(const std::string& name, double otherwise) const;
  // The value, or a vector's values, in the device's memory under a name of its own; put there once as long as it stays the same.
  template <class T>
  const T* placed(const std::string& name, const T& value) {
    return static_cast<const T*>(place(name, &value, sizeof value));
  }
  template <class T>
  const T* placed(const std::string& name, const std::vector<T>& values) {
    return static_cast<const T*>(place(name, values.data(), values.size() * sizeof(T)));
  }
  // From now on what was placed stays as it is: calls only repeat.
  void settle() { settled_ = true; }
  // Throws std::runtime_error naming the tensor whose surroundings were written to.
  void collect();
  // The tensors on the host: as given, and after `collect` as the op left them.
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }

 private:
  std::map<std::string, std::vector<real>> blocks_;  // on the host, every value as a real
  std::map<std::string, real*> places_;              // the same blocks on the device; in bf16 where the attribute bf16_<name> is set
  std::map<std::string, Type> types_;                // of those on the device
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, bool> given_;
  std::map<std::string, std::pair<void*, std::vector<uint8_t>>> placed_;  // on the device, and what lies there
  bool settled_ = false;
  const void* place(const std::string& name, const void* bytes, size_t count);
};

// Runs the op; a scalar result becomes the tensor "result". Throws std::invalid_argument for an unknown name.
void run_op(const std::string& name, OpCall& call, Context& context);

// Times an op on its own: nanoseconds per call of each of `runs` runs of `launches` calls. On a GPU a run is a Program, replayed and waited
// for, so the host's work is left out; an op that brings a number to the host cannot be recorded, and throws there.
std::vector<double> time_op(const std::string& name, OpCall& call, Context& context, int launches, int runs);

}  // namespace phx
