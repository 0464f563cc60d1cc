// Tensor copies at the edges and warpgroup products in every layout, against plain loops written from the documentation: PTX ISA 9.0,
// "Tensor
// Swizzling Modes", "Shared Memory Matrix Layout", "Matrix Descriptor Format"; CUDA driver API, cuTensorMapEncodeTiled. All values are
// whole numbers.
#include "hopper_vectors.h"

#include <cstring>

#include "hopper.h"

namespace {

// 16-byte chunk `chunk` of row `row` in a swizzle of `span` bytes, rows of `span` bytes: the pattern repeats after 8 rows of 128 bytes, 8
// of 64 or 8 of 32, and moves chunks by the number of 128-byte lines above.
uint32_t swizzled_chunk(uint32_t row, uint32_t chunk, uint32_t span) { return span ? chunk ^ (row * span / 128 % (span / 16)) : chunk; }

CUresult start(CUmodule module, const std::string& name, unsigned shared, const auto& parameters) {
  CUfunction f = function(module, name.c_str());
  succeeded(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, int(shared)), "shared memory");
  return run(f, 1, 128, shared, nullptr, parameters);
}

// ---- tensor copies

constexpr int kSizes[] = {64, 9, 7, 3, 2};  // channels, columns, rows, images, and one more for stores

struct Box {
  const char* name;
  int rank, swizzle;
  uint32_t box[5], steps[5];
  int at[5];
};
const Box boxes[] = {
    {"inside", 4, 0, {64, 4, 2, 1, 1}, {1, 1, 1, 1, 1}, {0, 2, 1, 1, 0}},
    {"before the first row and column", 4, 128, {64, 8, 2, 1, 1}, {1, 1, 1, 1, 1}, {0, -1, -1, 0, 0}},
    {"past the last row and column", 4, 128, {64, 8, 2, 1, 1}, {1, 1, 1, 1, 1}, {0, 2, 6, 2, 0}},
    {"past the last image", 4, 128, {64, 4, 2, 2, 1}, {1, 1, 1, 1, 1}, {0, 0, 0, 2, 0}},
    {"before the first channel", 4, 64, {32, 4, 4, 1, 1}, {1, 1, 1, 1, 1}, {-8, 0, 3, 0, 0}},
    {"past the last channel", 4, 32, {16, 8, 2, 1, 1}, {1, 1, 1, 1, 1}, {56, 1, 0, 1, 0}},
    {"past the last channel, no swizzle", 4, 0, {16, 8, 2, 1, 1}, {1, 1, 1, 1, 1}, {51, 1, 0, 1, 0}},
    {"wholly outside", 4, 128, {64, 4, 2, 1, 1}, {1, 1, 1, 1, 1}, {0, -9, 20, 0, 0}},
    {"every second pixel", 4, 128, {64, 8, 4, 1, 1}, {1, 2, 2, 1, 1}, {0, 0, 1, 0, 0}},
    {"every second pixel from before the first", 4, 128, {64, 8, 8, 2, 1}, {1, 2, 2, 1, 1}, {0, -1, -1, 1, 0}},
    {"every third pixel, an uneven box", 4, 64, {32, 7, 4, 2, 1}, {1, 3, 2, 1, 1}, {0, 1, 0, 0, 0}},
};
uint16_t value_at(int n, int h, int w, int c) { return uint16_t(1 + c + 64 * (w + 9 * (h + 7 * n))); }

phx::TensorMap map_of(const Box& b, CUdeviceptr base) {
  CUtensorMap map{};
  const CUtensorMapSwizzle swizzles[] = {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_32B, CU_TENSOR_MAP_SWIZZLE_64B,
                                         CU_TENSOR_MAP_SWIZZLE_128B};
  cuuint64_t sizes[5], strides[5], stride = 2;
  for (int i = 0; i < b.rank; ++i) {
    sizes[i] = cuuint64_t(kSizes[i]);
    stride *= sizes[i];
    strides[i] = stride;
  }
  succeeded(cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, cuuint32_t(b.rank), reinterpret_cast<void*>(base), sizes, strides,
                                   b.box, b.steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                   swizzles[b.swizzle == 128  ? 3
                                            : b.swizzle == 64 ? 2
                                            : b.swizzle == 32 ? 1
                                                              : 0],
                                   CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
            b.name);
  phx::TensorMap out;
  memcpy(&out, &map, sizeof out);
  return out;
}

void loads(CUmodule module) {
  std::vector<uint16_t> tensor(64 * 9 * 7 * 3);
  for (int n = 0, i = 0; n < 3; ++n)
    for (int h = 0; h < 7; ++h)
      for (int w = 0; w < 9; ++w)
        for (int c = 0; c < 64; ++c) tensor[size_t(i++)] = value_at(n, h, w, c);
  Buffer memory(tensor);
  for (const Box& b : boxes) {
    uint32_t taken[4];
    for (int i = 0; i < 4; ++i) taken[i] = (b.box[i] + b.steps[i] - 1) / b.steps[i];
    std::vector<uint16_t> wanted(size_t(taken[0]) * taken[1] * taken[2] * taken[3]);
    uint32_t row = 0;
    for (uint32_t n = 0; n < taken[3]; ++n)
      for (uint32_t h = 0; h < taken[2]; ++h)
        for (uint32_t w = 0; w < taken[1]; ++w, ++row)
          for (uint32_t c = 0; c < taken[0]; ++c) {
            const int in = b.at[3] + int(n * b.steps[3]), ih = b.at[2] + int(h * b.steps[2]), iw = b.at[1] + int(w * b.steps[1]),
                      ic = b.at[0] + int(c);
            const bool inside = in >= 0 && in < 3 && ih >= 0 && ih < 7 && iw >= 0 && iw < 9 && ic >= 0 && ic < 64;
            const uint32_t chunk = swizzled_chunk(row, c / 8, uint32_t(b.swizzle));
            wanted[row * taken[0] + chunk * 8 + c % 8] = inside ? value_at(in, ih, iw, ic) : uint16_t(0);
          }
    const uint32_t bytes = uint32_t(wanted.size() * 2);
    Buffer image(bytes);
    BoxCopy copy{map_of(b, memory.pointer), reinterpret_cast<unsigned char*>(image.pointer), bytes, {}};
    std::copy(b.at, b.at + 5, copy.at);
    const std::string name = std::string("load ") + b.name + ", swizzle " + std::to_string(b.swizzle);
    if (succeeded(start(module, "load_box_kernel", bytes + 64, copy), name)) compare(name, image.read<uint16_t>(), wanted);
  }
}
void stores(CUmodule module) {
  const Box cases[] = {{"inside", 5, 128, {64, 4, 2, 1, 1}, {1, 1, 1, 1, 1}, {0, 1, 2, 1, 1}},
                       {"over the edges", 5, 128, {64, 4, 4, 2, 1}, {1, 1, 1, 1, 1}, {0, -2, 5, 2, 0}},
                       {"over the last channel", 5, 32, {16, 4, 2, 1, 2}, {1, 1, 1, 1, 1}, {56, 0, 0, 0, 1}}};
  for (const Box& b : cases) {
    const size_t size = 64 * 9 * 7 * 3 * 2;
    std::vector<uint16_t> before(size, 0xAAAA), wanted = before;
    const uint32_t values = b.box[0] * b.box[1] * b.box[2] * b.box[3] * b.box[4];
    std::vector<uint16_t> bytes(values);
    for (uint32_t i = 0; i < values; ++i) bytes[i] = uint16_t(i + 1);
    uint32_t row = 0;
    for (uint32_t i4 = 0; i4 < b.box[4]; ++i4)
      for (uint32_t i3 = 0; i3 < b.box[3]; ++i3)
        for (uint32_t i2 = 0; i2 < b.box[2]; ++i2)
          for (uint32_t i1 = 0; i1 < b.box[1]; ++i1, ++row)
            for (uint32_t c = 0; c < b.box[0]; ++c) {
              const uint32_t index[] = {c, i1, i2, i3, i4};
              size_t place = 0;
              bool inside = true;
              for (int i = 4; i >= 0; --i) {
                const int x = b.at[i] + int(index[i]);
                inside = inside && x >= 0 && x < kSizes[i];
                place = place * size_t(kSizes[i]) + size_t(x);
              }
              if (inside) wanted[place] = bytes[row * b.box[0] + swizzled_chunk(row, c / 8, uint32_t(b.swizzle)) * 8 + c % 8];
            }
    Buffer tensor(before), image(bytes);
    BoxCopy copy{map_of(b, tensor.pointer), reinterpret_cast<unsigned char*>(image.pointer), values * 2, {}};
    std::copy(b.at, b.at + 5, copy.at);
    const std::string name = std::string("store ") + b.name + ", swizzle " + std::to_string(b.swizzle);
    if (succeeded(start(module, "store_box_kernel", values * 2, copy), name)) compare(name, tensor.read<uint16_t>(), wanted);
  }
}

// ---- blocks: lane l holds values 2·(l%4) and the next one of row l/4 of each, and says where row l%8 of block l/8 lies

void blocks(CUmodule module) {
  std::vector<uint32_t> registers(128), rows(32), wanted(128);
  auto row_at = [](uint32_t block, uint32_t row) { return (block * 8 + row) * 5 % 32 * 16; };  // all 32 places, in no order
  auto value = [](uint32_t block, uint32_t row, uint32_t pair) { return (block * 64 + row * 8 + pair * 2) * 65537 + 65536; };
  for (uint32_t lane = 0; lane < 32; ++lane) {
    rows[lane] = row_at(lane / 8, lane % 8);
    for (uint32_t block = 0; block < 4; ++block) registers[lane * 4 + block] = value(block, lane / 4, lane % 4);
  }
  for (uint32_t block = 0; block < 4; ++block)
    for (uint32_t row = 0; row < 8; ++row)
      for (uint32_t pair = 0; pair < 4; ++pair) wanted[row_at(block, row) / 4 + pair] = value(block, row, pair);
  Buffer from(registers), places(rows), image(512);
  const Blocks b{reinterpret_cast<uint32_t*>(from.pointer), reinterpret_cast<uint32_t*>(places.pointer),
                 reinterpret_cast<uint32_t*>(image.pointer)};
  if (succeeded(run(function(module, "store_blocks_kernel"), 1, 32, 512, nullptr, b), "store four blocks"))
    compare("store four blocks", image.read<uint32_t>(), wanted);
}

// ---- products: 64x64 = (64 x 64 k) (64 k x 64)

struct Operand {
  std::vector<uint16_t> image;  // 8192 bytes
  uint64_t descriptor;          // but for the start
  uint32_t start[4];            // of every 16 k
};
uint16_t small_bf16(int value) {
  const float f = float(value);
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return uint16_t(bits >> 16);
}
int element(int which, int row, int k) { return (row * (5 + 2 * which) + k * (3 + 8 * which) + row * k % 7) % 9 - 4; }

// Element (row, k) of 64 x 64; a row is m or n. Swizzled K-major: atoms of 8 rows of `span` bytes of k, one above the other, then the next
// `span` bytes of k. Swizzled MN-major: atoms of 8 k of `span` bytes of rows, one above the other, then the next rows. No swizzle: cores of
// 8 x 16 bytes.
Operand operand(int which, bool mn_major, uint32_t span) {
  Operand o{std::vector<uint16_t>(4096), 0, {}};
  const uint32_t wide = span / 2;  // values in a line of an atom
  const uint64_t code = span == 128 ? 1 : span == 64 ? 2 : span == 32 ? 3 : 0;
  uint32_t leading, stride;
  if (!span) {
    leading = 1024;  // from 8 k to the next
    stride = 128;    // from 8 rows to the next
  } else {
    leading = mn_major ? 64 * span : 16;  // from `wide` rows to the next; K-major: not used
    stride = 8 * span;                    // from 8 rows, or 8 k, to the next
  }
  o.descriptor = code << 62 | uint64_t(stride >> 4) << 32 | uint64_t(leading >> 4) << 16;
  for (uint32_t row = 0; row < 64; ++row)
    for (uint32_t k = 0; k < 64; ++k) {
      const uint32_t line = mn_major ? k : row, along = mn_major ? row : k;
      uint32_t place;
      if (!span)
        place = k / 8 * 1024 + row / 8 * 128 + line % 8 * 16 + along % 8 * 2;
      else
        place = along / wide * 64 * span + line * span + swizzled_chunk(line, along % wide / 8, span) * 16 + along % 8 * 2;
      o.image[place / 2] = small_bf16(element(which, int(row), int(k)));
    }
  for (uint32_t step = 0; step < 4; ++step) {
    const uint32_t k = step * 16;
    o.start[step] = !span ? k / 8 * 1024 : mn_major ? k * span : k / wide * 64 * span + k % wide * 2;
  }
  return o;
}
// Of D: the accumulators of the 128 threads. Of A: 4 registers of two values per thread and step.
std::vector<float> product_of_loops() {
  std::vector<float> d(128 * 32);
  for (int t = 0; t < 128; ++t)
    for (int i = 0; i < 32; ++i) {
      const int row = t / 32 * 16 + t % 32 / 4 + i % 4 / 2 * 8, column = i / 4 * 8 + t % 4 * 2 + i % 2;
      int sum = 0;
      for (int k = 0; k < 64; ++k) sum += element(0, row, k) * element(1, column, k);
      d[size_t(t) * 32 + size_t(i)] = float(sum);
    }
  return d;
}
std::vector<uint32_t> registers_of_a() {
  std::vector<uint32_t> a(4 * 128 * 4);
  for (int step = 0; step < 4; ++step)
    for (int t = 0; t < 128; ++t)
      for (int i = 0; i < 4; ++i) {
        const int row = t / 32 * 16 + t % 32 / 4 + i % 2 * 8, k = step * 16 + t % 4 * 2 + i / 2 * 8;
        a[size_t((step * 128 + t) * 4 + i)] = small_bf16(element(0, row, k)) | uint32_t(small_bf16(element(0, row, k + 1))) << 16;
      }
  return a;
}
void products(CUmodule module) {
  const std::vector<float> wanted = product_of_loops();
  Buffer registers(registers_of_a());
  for (const char* form : {"k_k", "k_mn", "mn_k", "mn_mn", "registers_k", "registers_mn"})
    for (uint32_t span : {0u, 32u, 64u, 128u}) {
      const std::string name = form;
      const Operand a = operand(0, name.rfind("mn_", 0) == 0, span), b = operand(1, name.substr(name.rfind('_') + 1) == "mn", span);
      Buffer a_image(a.image), b_image(b.image), d(wanted.size() * 4);
      Product p{reinterpret_cast<unsigned char*>(a_image.pointer),
                reinterpret_cast<unsigned char*>(b_image.pointer),
                reinterpret_cast<uint32_t*>(registers.pointer),
                reinterpret_cast<float*>(d.pointer),
                a.descriptor,
                b.descriptor,
                8192,
                {},
                {}};
      std::copy(a.start, a.start + 4, p.a_start);
      std::copy(b.start, b.start + 4, p.b_start);
      const std::string title = "product " + name + ", swizzle " + std::to_string(span);
      if (succeeded(start(module, "product_" + name + "_kernel", 16384, p), title)) compare(title, d.read<float>(), wanted);
    }
}

}  // namespace

void test_hopper_vectors(CUmodule module) {
  loads(module);
  stores(module);
  blocks(module);
  products(module);
}
