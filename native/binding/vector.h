// A Vector: a block of the device's memory in JavaScript's hands.
#pragma once
#include "binding/call.h"
#include "unet/memory.h"

namespace phx {

// A Buffer with its lock, shared by all handles to it (a Session's `params` among them).
struct SharedVector {
  BufferPtr buffer;
  std::shared_ptr<Lock> lock = std::make_shared<Lock>();
  int holders = 0;  // handles and Sessions

  size_t bytes() const { return buffer->count * sizeof(real); }
  // The garbage collector knows of the memory once, however many handles there are.
  void hold(Napi::BasicEnv env) {
    if (holders++ == 0) Napi::MemoryManagement::AdjustExternalMemory(env, int64_t(bytes()));
  }
  void release(Napi::BasicEnv env) {
    if (--holders == 0) Napi::MemoryManagement::AdjustExternalMemory(env, -int64_t(bytes()));
  }
};

Napi::Object wrap_vector(Napi::Env env, std::shared_ptr<SharedVector> shared);
// What a Vector holds; raises if the value is none or was disposed of.
std::shared_ptr<SharedVector> vector_of(Napi::Env env, Napi::Value value, const char* name);

}  // namespace phx
