// Single ops, called by name on tensors of plain numbers: for tests and benchmarks.
#include "binding/op_table.h"
#include "binding/parts.h"
#include "kernels/check.h"
#include "kernels/device.h"

namespace phx {
namespace {

// The tensors and attributes of a call of an op, arguments 1 and 2.
void read_call(const Napi::CallbackInfo& info, OpCall& call, bool repeated) {
  Napi::Env env = info.Env();
  Napi::Object tensors = object(info, 1, "tensors"), attributes = object(info, 2, "attributes");
  Napi::Array names = attributes.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); i++) {
    std::string attribute = names.Get(i).ToString();
    call.attributes[attribute] = number(attributes, attribute.c_str());
  }
  names = tensors.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); i++) {
    std::string tensor = names.Get(i).ToString();
    Napi::Object value = tensors.Get(tensor).As<Napi::Object>();
    std::vector<double> numbers = doubles(env, value.Get("data"), tensor.c_str());
    Napi::Array sizes = value.Get("shape").As<Napi::Array>();
    int shape[4];
    for (uint32_t d = 0; d < 4; d++) shape[d] = whole(env, sizes.Get(d), "shape", 1, 1 << 28);
    call.add(tensor, numbers.data(), numbers.size(), shape, repeated);
  }
}

// What a call's attributes `threads` and `bf16_products` ask for.
Context context_of(const OpCall& call) {
  Type products = call.number("bf16_products", 0) != 0 ? Type::bf16 : Type::real;
  check(products == Type::real || device_bf16() == Bf16::products, "op", "bf16_products on a CPU with AVX512_BF16");
  return Context(int(call.number("threads", 1)), products);
}

Napi::Value op(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string name = info[0].ToString();
  return guarded(env, [&]() -> Napi::Value {
    OpCall call;
    read_call(info, call, false);
    Context context = context_of(call);
    run_op(name, call, context);
    call.collect();
    Napi::Object result = Napi::Object::New(env), out = Napi::Object::New(env);
    for (const auto& [tensor, view] : call.tensors()) {
      auto data = Napi::Float64Array::New(env, view.size());
      for (size_t row = 0; row < view.rows(); row++) std::copy_n(view.row(row), view.c, data.Data() + row * view.c);
      Napi::Object value = Napi::Object::New(env);
      value.Set("data", data);
      Napi::Array shape = Napi::Array::New(env, 4);
      const int sizes[4] = {view.n, view.h, view.w, view.c};
      for (uint32_t d = 0; d < 4; d++) shape.Set(d, sizes[d]);
      value.Set("shape", shape);
      out.Set(tensor, value);
    }
    result.Set("tensors", out);
    return result;
  });
}

Napi::Value timed_op(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string name = info[0].ToString();
  int launches = whole(env, info[3], "launches", 1, 100000), runs = whole(env, info[4], "runs", 1, 1000000);
  return guarded(env, [&]() -> Napi::Value {
    OpCall call;
    read_call(info, call, true);
    Context context = context_of(call);
    std::vector<double> nanoseconds = time_op(name, call, context, launches, runs);
    auto result = Napi::Float64Array::New(env, nanoseconds.size());
    std::copy(nanoseconds.begin(), nanoseconds.end(), result.Data());
    return result;
  });
}

}  // namespace

void add_ops(Napi::Env env, Napi::Object exports) {
  exports.Set("op", Napi::Function::New<op>(env));
  exports.Set("timeOp", Napi::Function::New<timed_op>(env));
}

}  // namespace phx
