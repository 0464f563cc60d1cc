// One block of device memory out of which the tape's tensors are cut. Used twice: a dry run on an arena without memory finds the most that
// is ever in use, then `commit` allocates exactly that and the real run repeats the same calls, so every tensor gets the same address each
// step.
#pragma once
#include <cstddef>
#include <map>

#include "kernels/tensor.h"

namespace phx {

class Arena {
 public:
  Arena() = default;
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // `count` reals at a 64-byte boundary, contents undefined. First fit, so the same calls give the same places.
  real* take(size_t count);
  void release(real* place);

  // Throws std::bad_alloc; frees what was committed before. All tensors must have been released.
  void commit(size_t count);
  bool dry() const { return block_ == nullptr; }
  const real* block() const { return block_; }
  size_t high_water() const { return high_water_; }  // reals
  size_t capacity() const { return capacity_; }
  void reset();

 private:
  real* base() const;
  real* block_ = nullptr;
  size_t capacity_ = 0, high_water_ = 0;
  std::map<size_t, size_t> used_;  // offset → count
};

}  // namespace phx
