// How the CUDA backend's host code starts kernels. A Kernel is a name, its parameter struct and what it needs: declared once in a
// launcher's file, resolved with all others when the device is opened, so a missing kernel is an error there and not in the middle of a
// training. On Hopper a kernel may be started while the one in front of it still runs (PHOENIX_CUDA_OVERLAP=0 forbids it); begin_kernel
// (cuda.cuh) waits for it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "kernels/tensor.h"

namespace phx {

struct Blocks {
  size_t x = 1;
  unsigned y = 1, z = 1;
};

// What a kernel needs besides its parameters; settled when the device is opened.
struct KernelNeeds {
  int architecture = 80;      // 90: it is compiled for sm_90a alone, and may be started only where kernel_architecture() is 90
  unsigned shared_bytes = 0;  // dynamic shared memory of a block, at most; may exceed 48 KiB, what exceeds the device's limit is cut off
  unsigned cluster = 1;       // blocks along x that form a cluster; the grid is a multiple of it
};

// The part that does not depend on the parameters. Lives as long as the program.
class AnyKernel {
 public:
  explicit AnyKernel(const char* name, KernelNeeds needs = {});
  AnyKernel(const AnyKernel&) = delete;
  AnyKernel& operator=(const AnyKernel&) = delete;

  const char* const name;
  const KernelNeeds needs;
  void* function = nullptr;  // CUfunction
  AnyKernel* const next;     // of the list of all kernels
  static AnyKernel* first;

 protected:
  // Throws std::runtime_error with the driver's reason. Work of no blocks is left out.
  void start(Blocks grid, unsigned threads, void* parameters, unsigned shared_bytes) const;
};

template <class Parameters>
class Kernel : public AnyKernel {
 public:
  using AnyKernel::AnyKernel;
  void operator()(Blocks grid, unsigned threads, Parameters parameters) const { start(grid, threads, &parameters, needs.shared_bytes); }
  // With less shared memory than it may need.
  void operator()(Blocks grid, unsigned threads, Parameters parameters, size_t shared_bytes) const {
    start(grid, threads, &parameters, unsigned(shared_bytes));
  }
};

// What kernels are chosen by: 90 where the device is of compute capability 9.0 and the build has kernels for it (sm_90a), else 80. Throws
// where there is no device.
int kernel_architecture();
// Whether something that is there to be fast may be: not if the environment sets its variable to 0.
inline bool allowed(const char* variable) {
  const char* set = std::getenv(variable);
  return !set || std::string_view(set) != "0";
}
// Multiprocessors of the device.
int multiprocessors();
// The most dynamic shared memory that a block can have, in bytes.
int max_shared_bytes();

// A tensor map of the copy engine (TMA), part of a kernel's parameter struct; the kernel takes the struct as `const __grid_constant__`.
struct alignas(64) TensorMap {
  unsigned char bytes[128];
};
// What it describes, dimensions from the innermost on: sizes in elements, the distance in bytes from one to the next of every dimension but
// the innermost (multiples of 16), the box that one copy takes and its steps in elements. What lies outside is read as 0.
struct TensorMapShape {
  enum class Element { bf16, float32 } element = Element::bf16;
  int rank = 1;  // 1 to 5
  uint64_t sizes[5] = {};
  uint64_t distances[4] = {};
  uint32_t box[5] = {1, 1, 1, 1, 1};
  uint32_t steps[5] = {1, 1, 1, 1, 1};
  int swizzle = 0;  // bytes: 0, 32, 64 or 128
};
// Throws std::invalid_argument for a shape outside of the engine's limits.
TensorMap tensor_map(const void* base, const TensorMapShape& shape);

// The compiled kernels of one file, as the driver takes them; the table is made by the build.
struct KernelImage {
  const char* name;
  const void* data;
};
extern const KernelImage kernel_images[];
extern const size_t kernel_image_count;
extern const bool kernel_images_hold_sm90a;

// bf16 in rows of whole 16-byte pieces, as the fast kernels copy them.
inline bool is_aligned_bf16(const Tensor& t) {
  return t.type == Type::bf16 && t.c % 8 == 0 && t.ld % 8 == 0 && uintptr_t(t.data) % 16 == 0;
}

constexpr unsigned kElementThreads = 256;
// Blocks for a thread per element.
inline Blocks cover(size_t elements) { return {ceil_div(elements, kElementThreads)}; }

}  // namespace phx
