#include "context.h"

#include <cstdlib>
#include <new>

namespace phx {

Context::~Context() { std::free(block_); }

real* Context::scratch(size_t count) {
  if (count > capacity_) {
    std::free(block_);
    block_ = nullptr, capacity_ = 0;
    size_t bytes = (count * sizeof(real) + 63) / 64 * 64;
    block_ = static_cast<real*>(std::aligned_alloc(64, bytes));
    if (!block_) throw std::bad_alloc();
    capacity_ = count;
  }
  return block_;
}

}  // namespace phx
