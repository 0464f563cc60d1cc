// The addon's face to JavaScript: this folder alone includes napi. The TypeScript side of its contract is src/bindings/native.ts.
#include "binding/parts.h"
#include "kernels/device.h"
#include "kernels/isa.h"
#include "kernels/philox.h"

namespace phx {
namespace {

Napi::Value info_of(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Napi::Object o = Napi::Object::New(env);
  bool fast = std::string(PHOENIX_BACKEND) == "cpu";
  o.Set("backend", PHOENIX_BACKEND);
  o.Set("real", sizeof(real) == 4 ? "float32" : "float64");
  o.Set("isa", fast ? isa_name(isa()) : "none");
  Napi::Array isas = Napi::Array::New(env);
  for (int i = 0; fast && i <= int(best_isa()); i++) isas.Set(uint32_t(i), isa_name(Isa(i)));
  o.Set("isas", isas);
  o.Set("build", std::string("C++ compiler ") + __VERSION__);
  o.Set("cores", double(std::max(1u, std::thread::hardware_concurrency())));
  o.Set("usable", device_state().usable);
  o.Set("device", device_state().text);
  o.Set("bf16", device_bf16() != Bf16::none);
  o.Set("replays", double(Program::replays()));
  o.Set("copied", double(device_copied()));
  return o;
}

Napi::Value set_error_class(const Napi::CallbackInfo& info) {
  data_of(info.Env()).error_class = Napi::Persistent(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

Napi::Value philox_words(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  uint32_t c[4];
  for (int i = 0; i < 4; i++) c[i] = info[i + 1].As<Napi::Number>().Uint32Value();
  Words words = philox(key(env, info[0]), c[0], c[1], c[2], c[3]);
  Napi::Array result = Napi::Array::New(env, 4);
  for (uint32_t i = 0; i < 4; i++) result.Set(i, double(words.w[i]));
  return result;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  isa();  // reads the environment: now, while no other thread may change it
  auto* data = new EnvData;
  env.SetInstanceData(data);
  env.AddCleanupHook([data] {
    for (Job* job : data->jobs) job->stop();
  });
  exports.Set("info", Napi::Function::New<info_of>(env));
  exports.Set("setErrorClass", Napi::Function::New<set_error_class>(env));
  exports.Set("philox", Napi::Function::New<philox_words>(env));
  add_vector(env, exports);
  add_session(env, exports);
  add_ops(env, exports);
  if (device_is_host) add_metrics(env, exports);  // metrics compute in the host's memory: phoenix-cpu has them
  return exports;
}

}  // namespace
}  // namespace phx

static Napi::Object Init(Napi::Env env, Napi::Object exports) { return phx::init(env, exports); }
NODE_API_MODULE(phoenix, Init)
