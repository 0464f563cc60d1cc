// hopper_test FOLDER: the instructions of Ampere and Hopper that kernels are made of, and Hopper's convolutions, against plain loops; their
// PTX lies in FOLDER. Prints JSON: the device, and for each vector the hash of what the loops say and of what the device did. Runs on the
// emulator, to which it is linked, and on a GPU by LD_PRELOAD=libcuda.so.1.
#include "hopper.h"
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>

static std::string vectors;

void vector(const std::string& name, uint64_t expected, uint64_t got) {
  char line[200];
  snprintf(line, sizeof line, "%s\n    {\"name\": \"%s\", \"expected\": \"%016llx\", \"got\": \"%016llx\"}", vectors.empty() ? "" : ",",
           name.c_str(), static_cast<unsigned long long>(expected), static_cast<unsigned long long>(got));
  vectors += line;
}

static uint64_t hash(const void* data, size_t bytes) {  // FNV-1a
  uint64_t h = 14695981039346656037ull;
  for (size_t i = 0; i < bytes; ++i) h = (h ^ static_cast<const unsigned char*>(data)[i]) * 1099511628211ull;
  return h;
}
void compare(const std::string& name, const void* got, const void* wanted, size_t count, size_t size) {
  size_t wrong = 0, first = 0;
  for (size_t i = 0; i < count; ++i)
    if (memcmp(static_cast<const char*>(got) + i * size, static_cast<const char*>(wanted) + i * size, size) && !wrong++) first = i;
  check(!wrong, name + ": " + std::to_string(wrong) + " of " + std::to_string(count) + " differ, first at " + std::to_string(first));
  vector(name, hash(wanted, count * size), hash(got, count * size));
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
  check(major == 8 || major == 9, "compute capability 8.0 is wanted, or 9.0 for all of it");
  struct Part {
    const char* name;
    void (*test)(CUmodule);
    int capability;
  };
  const Part parts[] = {{"ampere_vectors", test_ampere_vectors, 8},
                        {"hopper_vectors", test_hopper_vectors, 9},
                        {"wgmma_product", test_wgmma_products, 9},
                        {"wgmma_halo", test_wgmma_halo, 9}};
  for (auto [name, test, capability] : parts) {
    if (major < capability) continue;
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
