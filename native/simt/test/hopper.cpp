// hopper_test FOLDER: tensor copies, warpgroup products and the convolutions made of them, against plain loops; their PTX lies in FOLDER. Prints JSON:
// the device, and for each vector the hash of what the loops say and of what the device did. Runs on the emulator, to which it is linked, and on a GPU
// of compute capability 9.0 by LD_PRELOAD=libcuda.so.1.
#include <cstdio>
#include <fstream>
#include <iterator>
#include "test.h"

static std::string vectors;

void vector(const std::string& name, uint64_t expected, uint64_t got) {
  char line[200];
  snprintf(line, sizeof line, "%s\n    {\"name\": \"%s\", \"expected\": \"%016llx\", \"got\": \"%016llx\"}", vectors.empty() ? "" : ",",
           name.c_str(), static_cast<unsigned long long>(expected), static_cast<unsigned long long>(got));
  vectors += line;
}

int main(int count, char** arguments) {
  if (count != 2) {
    fprintf(stderr, "hopper_test FOLDER\n");
    return 2;
  }
  open_device();
  char device[200] = "";
  int major = 0;
  succeeded(cuDeviceGetName(device, sizeof device, 0), "name");
  succeeded(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0), "capability");
  check(major == 9, "compute capability 9.0 is wanted, for sm_90a");
  const std::pair<const char*, void (*)(CUmodule)> parts[] = {{"hopper_vectors", test_hopper_vectors},
                                                              {"wgmma_product", test_wgmma_products}};
  for (auto [name, test] : parts) {
    std::ifstream file(std::string(arguments[1]) + "/" + name + ".ptx");
    CUmodule module = load_text(std::string(std::istreambuf_iterator<char>(file), {}));
    if (!module) continue;
    test(module);
    succeeded(cuModuleUnload(module), "unload");
  }
  printf("{\n  \"device\": \"%s\",\n  \"checks\": %d,\n  \"failed\": %d,\n  \"vectors\": [%s\n  ]\n}\n", device, checks, failures,
         vectors.c_str());
  return failures != 0;
}
