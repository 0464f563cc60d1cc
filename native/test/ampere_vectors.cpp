// Each instruction of kernels/sm80.cuh on whole numbers, against plain loops written from the documentation: PTX ISA 9.0, "Matrix Fragments
// for mma.m16n8k16 with floating point type", "ldmatrix", "cp.async". What a lane holds: group = lane / 4, place = lane % 4.
#include "ampere_vectors.h"

#include <cstring>

#include "hopper.h"

namespace {

uint16_t small_bf16(int value) {
  const float f = float(value);
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return uint16_t(bits >> 16);
}
uint32_t two(uint16_t low, uint16_t high) { return low | uint32_t(high) << 16; }
int element(int which, int row, int column) { return (row * (3 + which) + column * (5 + 2 * which) + row * column % 11) % 15 - 7; }

template <class T, class P>
void launch(CUmodule module, const char* kernel, const P& parameters, const Buffer& out, const std::vector<T>& wanted) {
  if (succeeded(run(function(module, kernel), 1, 32, 0, nullptr, parameters), kernel)) compare(kernel, out.read<T>(), wanted);
}

void products(CUmodule module) {
  std::vector<uint32_t> a, b;
  std::vector<float> c, d;
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, place = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = group + (i % 2 ? 8 : 0), k = place * 2 + (i >= 2 ? 8 : 0);
      a.push_back(two(small_bf16(element(0, row, k)), small_bf16(element(0, row, k + 1))));
    }
    for (int i = 0; i < 2; ++i) {
      const int k = place * 2 + (i ? 8 : 0), column = group;
      b.push_back(two(small_bf16(element(1, k, column)), small_bf16(element(1, k + 1, column))));
    }
    for (int i = 0; i < 4; ++i) {
      const int row = group + (i >= 2 ? 8 : 0), column = place * 2 + i % 2;
      int sum = element(2, row, column);
      c.push_back(float(sum));
      for (int k = 0; k < 16; ++k) sum += element(0, row, k) * element(1, k, column);
      d.push_back(float(sum));
    }
  }
  Buffer a_memory(a), b_memory(b), c_memory(c), out(d.size() * 4);
  launch(module, "warp_product_kernel",
         WarpProduct{reinterpret_cast<uint32_t*>(a_memory.pointer), reinterpret_cast<uint32_t*>(b_memory.pointer),
                     reinterpret_cast<float*>(c_memory.pointer), reinterpret_cast<float*>(out.pointer)},
         out, d);
}

void blocks(CUmodule module, bool transposed) {
  std::vector<uint16_t> image(256);
  std::vector<uint32_t> rows, wanted;
  auto value = [](int block, int row, int column) { return uint16_t(1000 * block + 10 * row + column); };
  auto slot = [](int block, int row) { return uint32_t((block * 8 + row) * 5 % 32); };  // rows lie anywhere
  for (int block = 0; block < 4; ++block)
    for (int row = 0; row < 8; ++row) {
      rows.push_back(slot(block, row) * 16);
      for (int column = 0; column < 8; ++column) image[slot(block, row) * 8 + size_t(column)] = value(block, row, column);
    }
  for (int lane = 0; lane < 32; ++lane)
    for (int block = 0; block < 4; ++block) {
      const int group = lane / 4, place = lane % 4 * 2;
      wanted.push_back(transposed ? two(value(block, place, group), value(block, place + 1, group))
                                  : two(value(block, group, place), value(block, group, place + 1)));
    }
  Buffer image_memory(image), rows_memory(rows), out(wanted.size() * 4);
  launch(module, transposed ? "load_blocks_transposed_kernel" : "load_blocks_kernel",
         LoadedBlocks{reinterpret_cast<unsigned char*>(image_memory.pointer), reinterpret_cast<uint32_t*>(rows_memory.pointer),
                      reinterpret_cast<uint32_t*>(out.pointer)},
         out, wanted);
}

void copies(CUmodule module) {
  std::vector<unsigned char> from(512), wanted(512);
  std::vector<uint32_t> inside(32);
  for (size_t i = 0; i < 512; ++i) {
    from[i] = static_cast<unsigned char>(i * 7 + 1);
    inside[i / 16] = i / 16 % 3 != 1;
    wanted[i] = inside[i / 16] ? from[i] : 0;
  }
  Buffer from_memory(from), inside_memory(inside), out(512);
  launch(module, "copy_async_kernel",
         CopiedPieces{reinterpret_cast<unsigned char*>(from_memory.pointer), reinterpret_cast<uint32_t*>(inside_memory.pointer),
                      reinterpret_cast<unsigned char*>(out.pointer)},
         out, wanted);
}

}  // namespace

void test_ampere_vectors(CUmodule module) {
  products(module);
  blocks(module, false);
  blocks(module, true);
  copies(module);
}
