// The right kernels give right values without a report; each seeded defect is reported, and in words that name it.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>

#include "test.h"

struct Defect {
  const char *kernel, *finding;  // part of the report
};
static void expect(CUresult result, const Defect& d) {
  check(result == CUDA_ERROR_LAUNCH_FAILED && message(result).find(d.finding) != std::string::npos,
        std::string(d.kernel) + " should be reported as '" + d.finding + "', got: " + message(result));
}
static std::vector<float> ramp(size_t n) {
  std::vector<float> x(n);
  for (size_t i = 0; i < n; ++i) x[i] = float(int(i % 97) - 48);
  return x;
}
static CUtensorMap tile_map(const Buffer& b) {
  CUtensorMap map{};
  const cuuint64_t dims[] = {32, 32}, strides[] = {128};
  const cuuint32_t box[] = {32, 32}, steps[] = {1, 1};
  succeeded(cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, reinterpret_cast<void*>(b.pointer), dims, strides, box, steps,
                                   CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
            "tensor map");
  return map;
}

static void test_sums(CUmodule module) {
  const std::vector<float> x = ramp(1024);
  float wanted = 0;
  for (float v : x) wanted += v;
  auto sum = [&](const char* kernel, float* result) {
    Buffer in(x), out(std::vector<float>{0});
    const CUresult r = run(function(module, kernel), 4, 256, 0, nullptr, in.pointer, out.pointer);
    *result = out.read<float>()[0];
    return r;
  };
  float result;
  succeeded(sum("block_sum_0", &result), "block_sum_0");
  check(result == wanted, "block_sum_0: the sum");
  for (const Defect& d :
       {Defect{"block_sum_1", "shared memory"}, Defect{"block_sum_2", "barrier"}, Defect{"block_sum_3", "shared array out of bounds"},
        Defect{"block_sum_4", "shfl.sync"}, Defect{"block_sum_5", "another block"}})
    expect(sum(d.kernel, &result), d);
}
static void test_reversal(CUmodule module) {
  const std::vector<float> x = ramp(32);
  auto reverse = [&](const char* kernel, std::vector<float>* y) {
    Buffer in(x), out(32 * 4);
    const CUresult r = run(function(module, kernel), 1, 32, 0, nullptr, in.pointer, out.pointer);
    *y = out.read<float>();
    return r;
  };
  std::vector<float> y;
  succeeded(reverse("reverse_0", &y), "reverse_0");
  check(y == std::vector<float>(x.rbegin(), x.rend()), "reverse_0: the order");
  for (const Defect& d : {Defect{"reverse_6", "shared memory"}, Defect{"reverse_7", "uninitialised shared memory"},
                          Defect{"reverse_8", "byte 128 of an allocation of 128"}, Defect{"reverse_9", "global memory race"},
                          Defect{"reverse_10", "misaligned access"}})
    expect(reverse(d.kernel, &y), d);
}
static void test_staged_copies(CUmodule module) {
  const std::vector<float> x = ramp(512);
  auto copy = [&](const char* kernel, std::vector<float>* y) {
    Buffer in(x), out(512 * 4);
    const CUresult r = run(function(module, kernel), 1, 128, 0, nullptr, in.pointer, out.pointer);
    *y = out.read<float>();
    return r;
  };
  std::vector<float> y;
  succeeded(copy("staged_copy_0", &y), "staged_copy_0");
  bool reversed = true;
  for (size_t i = 0; i < 512; ++i) reversed = reversed && y[i] == x[(127 - i / 4) * 4 + i % 4];
  check(reversed, "staged_copy_0: the order");
  for (const Defect& d : {Defect{"staged_copy_11", "asynchronous copy still in flight"},
                          Defect{"staged_copy_12", "asynchronous copy still in flight"}, Defect{"staged_copy_13", "shared memory"}})
    expect(copy(d.kernel, &y), d);
}
static void test_tiles(CUmodule module) {
  const std::vector<float> x = ramp(1024);
  auto add = [&](const char* kernel, std::vector<float>* y) {
    Buffer in(x), out(4096);
    const CUresult r = run(function(module, kernel), 1, 128, 5120, nullptr, tile_map(in), tile_map(out));
    *y = out.read<float>();
    return r;
  };
  std::vector<float> y;
  succeeded(add("tile_add_0", &y), "tile_add_0");
  bool added = true;
  for (size_t i = 0; i < 1024; ++i) added = added && y[i] == x[i] + 1;
  check(added, "tile_add_0: the values");
  for (const Defect& d : {Defect{"tile_add_14", "not an initialised mbarrier"}, Defect{"tile_add_15", "mbarrier"},
                          Defect{"tile_add_16", "tile_add_16"}, Defect{"tile_add_17", "shared memory"},
                          Defect{"tile_add_18", "without fence.proxy.async"}, Defect{"tile_add_19", "TMA stores not waited for"}})
    expect(add(d.kernel, &y), d);
}
static void test_pipelines(CUmodule module) {
  std::vector<uint16_t> a(64 * 256), b(a.size());
  auto value = [](int row, int k, int which) { return (row * 3 + k * (5 + which) + row * k % 5) % 7 - 3; };
  auto bf16 = [](int v) {
    const float f = float(v);
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return uint16_t(bits >> 16);
  };
  for (int row = 0; row < 64; ++row)
    for (int k = 0; k < 256; ++k) {
      a[size_t(row * 256 + k)] = bf16(value(row, k, 0));
      b[size_t(row * 256 + k)] = bf16(value(row, k, 1));
    }
  auto multiply = [&](const char* kernel, std::vector<float>* d) {
    auto map = [](const Buffer& m) {
      CUtensorMap map{};
      const cuuint64_t sizes[] = {256, 64, 1}, strides[] = {512, 512 * 64};
      const cuuint32_t box[] = {64, 64, 1}, steps[] = {1, 1, 1};
      succeeded(cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, reinterpret_cast<void*>(m.pointer), sizes, strides, box,
                                       steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                                       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
                "tensor map");
      return map;
    };
    Buffer left(a), right(b), out(128 * 32 * 4);
    const CUresult r = run(function(module, kernel), 1, 160, 33024, nullptr, map(left), map(right), out.pointer);
    *d = out.read<float>();
    return r;
  };
  std::vector<float> d;
  succeeded(multiply("pipeline_0", &d), "pipeline_0");
  bool right = true;
  for (int t = 0; t < 128; ++t)
    for (int i = 0; i < 32; ++i) {
      const int row = t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + t % 4 * 2 + i % 2;
      int sum = 0;
      for (int k = 0; k < 256; ++k) sum += value(row, k, 0) * value(column, k, 1);
      right = right && d[size_t(t * 32 + i)] == float(sum);
    }
  check(right, "pipeline_0: the product");
  for (const Defect& defect :
       {Defect{"pipeline_20", "mbarrier.arrive"}, Defect{"pipeline_21", "shared memory race"}, Defect{"pipeline_22", "mbarrier.arrive"},
        Defect{"pipeline_23", "without wgmma.fence"}, Defect{"pipeline_24", "a swizzled operand starts"},
        Defect{"pipeline_25", "without fence.proxy.async"}, Defect{"pipeline_26", "pipeline_26"}, Defect{"pipeline_27", "deadlock"},
        Defect{"pipeline_28", "without fence.mbarrier_init"}})
    expect(multiply(defect.kernel, &d), defect);
}
static void test_registers(CUmodule module) {
  std::vector<uint32_t> a(4 * 128 * 4);
  for (size_t i = 0; i < a.size(); ++i) a[i] = i / 512 % 2 ? 0x3F800000u : 0x00003F80u;  // one and zero, or zero and one
  auto multiply = [&](const char* kernel, std::vector<float>* d) {
    Buffer from(a), out(128 * 32 * 4);
    const CUresult r = run(function(module, kernel), 1, 128, 8192, nullptr, from.pointer, out.pointer);
    *d = out.read<float>();
    return r;
  };
  std::vector<float> d;
  succeeded(multiply("registers_0", &d), "registers_0");
  check(std::all_of(d.begin(), d.end(), [](float sum) { return sum == 32; }), "registers_0: the product");  // 4 steps of 8 ones
  expect(multiply("registers_35", &d), {"registers_35", "a register of A was overwritten"});
}
static void test_clusters(CUmodule module) {
  const std::vector<float> x = ramp(1024);
  auto add = [&](const char* kernel, std::vector<float>* sums) {
    Buffer in(x), out(4 * 128 * 4);
    CUtensorMap map{};
    const cuuint64_t sizes[] = {32, 32, 1}, strides[] = {128, 4096};
    const cuuint32_t box[] = {32, 16, 1}, steps[] = {1, 1, 1};
    succeeded(cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 3, reinterpret_cast<void*>(in.pointer), sizes, strides, box,
                                     steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                                     CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
              "tensor map");
    const CUresult r = run_with(in_clusters(2), function(module, kernel), 4, 128, 4224, map, out.pointer);
    *sums = out.read<float>();
    return r;
  };
  std::vector<float> sums;
  succeeded(add("multicast_0", &sums), "multicast_0");
  bool right = true;
  for (size_t i = 0; i < sums.size(); ++i) {
    float wanted = 0;
    for (size_t j = i % 128; j < 1024; j += 128) wanted += 2 * x[j];
    right = right && sums[i] == wanted;
  }
  check(right, "multicast_0: the sums");
  for (const Defect& d :
       {Defect{"multicast_29", "multicast_29"}, Defect{"multicast_30", "a block that has exited"}, Defect{"multicast_31", "deadlock"},
        Defect{"multicast_32", "multicast_32"}, Defect{"multicast_33", "multicast_33"}})
    expect(add(d.kernel, &sums), d);
}
static void test_early_starts(CUmodule module) {
  const std::vector<float> x = ramp(64);
  auto twice = [&](const char* kernel, std::vector<float>* y) {
    Buffer in(x), out(64 * 4);
    const CUresult r = run_with(early(), function(module, kernel), 2, 32, 0, in.pointer, out.pointer);
    *y = out.read<float>();
    return r;
  };
  std::vector<float> y;
  succeeded(twice("twice_0", &y), "twice_0");
  bool right = true;
  for (size_t i = 0; i < y.size(); ++i) right = right && y[i] == 2 * x[i];
  check(right, "twice_0: the values");
  expect(twice("twice_34", &y), {"twice_34", "before griddepcontrol.wait"});
}

void test_defects(const std::string& folder) {
  int major = 0;
  succeeded(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0), "capability");
  auto read = [&](const char* arch) {
    std::ifstream file(folder + "/defects_" + arch + ".ptx");
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  CUmodule module = nullptr;
  if (major < 9) check(cuModuleLoadData(&module, read("90a").c_str()) == CUDA_ERROR_NO_BINARY_FOR_GPU, "sm_90a PTX is refused at 8.0");
  module = load_text(read(major < 9 ? "80" : "90a"));
  if (!module) return;
  test_sums(module);
  test_reversal(module);
  test_staged_copies(module);
  if (major >= 9) {
    test_tiles(module);
    test_pipelines(module);
    test_registers(module);
    test_clusters(module);
    test_early_starts(module);
  }
  succeeded(cuModuleUnload(module), "unload");
}
