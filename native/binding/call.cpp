#include "binding/call.h"

#include "kernels/device.h"
#include "unet/runner.h"

namespace phx {

EnvData& data_of(Napi::Env env) { return *env.GetInstanceData<EnvData>(); }

Releases::~Releases() {
#ifndef _WIN32  // Windows has ended them by now
  std::unique_lock<std::mutex> lock(mutex_);
  idle_.wait(lock, [this] { return running_ == 0; });
#endif
}
void Releases::begin() {
  std::lock_guard<std::mutex> lock(mutex_);
  running_++;
}
void Releases::end() {
  std::lock_guard<std::mutex> lock(mutex_);
  running_--;
  idle_.notify_all();
}

namespace {

Napi::Value make_error(Napi::Env env, const char* code, const std::string& message) {
  EnvData& data = data_of(env);
  if (data.error_class.IsEmpty()) return Napi::Error::New(env, std::string(code) + ": " + message).Value();
  return data.error_class.New({Napi::String::New(env, code), Napi::String::New(env, message)});
}

}  // namespace

void raise(Napi::Env env, const char* code, const std::string& message) { throw Napi::Error(env, make_error(env, code, message)); }

Napi::Value error_of(Napi::Env env, std::exception_ptr error) {
  try {
    std::rethrow_exception(error);
  } catch (const Aborted&) {
    return make_error(env, kAborted, "stopped");
  } catch (const NotFinite& e) {
    return make_error(env, "ERR_PHOENIX_NOT_FINITE",
                      e.what + "; lower the learning rate or go back to an earlier checkpoint (the step was not applied)");
  } catch (const OutOfMemory& e) {
    return make_error(env, "ERR_PHOENIX_MEMORY", std::string(e.what()) + "; use a smaller batch or a smaller model");
  } catch (const std::bad_alloc&) {
    return make_error(env, "ERR_PHOENIX_MEMORY", "not enough memory; use a smaller batch or a smaller model");
  } catch (const std::invalid_argument& e) {
    return make_error(env, kShape, e.what());
  } catch (const std::exception& e) {
    return make_error(env, "ERR_PHOENIX_INTERNAL", e.what());
  }
}

Napi::Object object(Napi::Env env, Napi::Value value, const char* name) {
  if (!value.IsObject()) raise(env, kArgument, std::string(name) + ": expected an object");
  return value.As<Napi::Object>();
}
Napi::Object object(const Napi::CallbackInfo& info, size_t i, const char* name) { return object(info.Env(), info[i], name); }

double number(Napi::Env env, Napi::Value value, const char* name, double least, double most) {
  double x = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (!(std::isfinite(x) && x >= least && x <= most)) {
    std::string range = std::isfinite(least) ? " from " + std::to_string(least) : "";
    if (std::isfinite(most)) range += " to " + std::to_string(most);
    raise(env, kArgument, std::string(name) + ": expected a finite number" + range + ", got " + value.ToString().Utf8Value());
  }
  return x;
}
double number(Napi::Object from, const char* name, double least, double most) {
  return number(from.Env(), from.Get(name), name, least, most);
}
int whole(Napi::Env env, Napi::Value value, const char* name, int least, int most) {
  double x = number(env, value, name, least, most);
  if (x != std::floor(x)) raise(env, kArgument, std::string(name) + ": expected a whole number, got " + std::to_string(x));
  return int(x);
}
int whole(Napi::Object from, const char* name, int least, int most) { return whole(from.Env(), from.Get(name), name, least, most); }
bool flag(Napi::Object from, const char* name) { return from.Get(name).ToBoolean(); }
uint64_t key(Napi::Env env, Napi::Value value) {
  if (!value.IsBigInt()) raise(env, kArgument, "key: expected a 64-bit BigInt");
  bool lossless;
  return value.As<Napi::BigInt>().Uint64Value(&lossless);
}

std::vector<int32_t> ints(Napi::Env env, Napi::Value value, const char* name) {
  if (value.IsUndefined()) return {};
  return values<int32_t, Napi::Int32Array>(env, value, name, napi_int32_array);
}
std::vector<double> doubles(Napi::Env env, Napi::Value value, const char* name) {
  return values<double, Napi::Float64Array>(env, value, name, napi_float64_array);
}

Napi::Value float_array(Napi::Env env, const std::vector<double>& from) {
  auto array = Napi::Float64Array::New(env, from.size());
  std::copy(from.begin(), from.end(), array.Data());
  return array;
}

}  // namespace phx
