// How the CUDA backend's host code starts kernels. A Kernel is a name and its parameter struct: declared once in a launcher's file, resolved with
// all others when the module is loaded, so a missing kernel is an error there and not in the middle of a training.
#pragma once
#include <cstddef>

namespace phx {

struct Blocks {
  size_t x = 1;
  unsigned y = 1, z = 1;
};

// The part that does not depend on the parameters. Lives as long as the program.
class AnyKernel {
 public:
  explicit AnyKernel(const char* name);
  AnyKernel(const AnyKernel&) = delete;
  AnyKernel& operator=(const AnyKernel&) = delete;

  const char* const name;
  void* function = nullptr;  // CUfunction
  AnyKernel* const next;     // of the list of all kernels
  static AnyKernel* first;

 protected:
  // Throws std::runtime_error with the driver's reason. Work of no blocks is left out.
  void start(Blocks grid, unsigned threads, void* parameters) const;
};

template <class Parameters>
class Kernel : public AnyKernel {
 public:
  using AnyKernel::AnyKernel;
  void operator()(Blocks grid, unsigned threads, Parameters parameters) const { start(grid, threads, &parameters); }
};

// The compiled kernels of one file, as the driver takes them; the table is made by the build.
struct KernelImage {
  const char* name;
  const void* data;
};
extern const KernelImage kernel_images[];
extern const size_t kernel_image_count;

constexpr unsigned kElementThreads = 256;
// Blocks for a thread an element.
inline Blocks cover(size_t elements) { return {(elements + kElementThreads - 1) / kElementThreads}; }

}  // namespace phx
