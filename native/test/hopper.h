// What the parts of hopper_test share.
#pragma once
#include "test.h"

void vector(const std::string& name, uint64_t expected, uint64_t got);  // for the printed JSON
void compare(const std::string& name, const void* got, const void* wanted, size_t count, size_t size);
// The same values, bit for bit; a vector of the JSON.
template <class T>
void compare(const std::string& name, const std::vector<T>& got, const std::vector<T>& wanted) {
  compare(name, got.data(), wanted.data(), wanted.size(), sizeof(T));
}
void test_ampere_vectors(CUmodule module);
void test_hopper_vectors(CUmodule module);
void test_wgmma_products(CUmodule module);
void test_wgmma_halo(CUmodule module);
