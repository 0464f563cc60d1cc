// The addon's face to JavaScript, and the only file that includes napi: arguments → C++ values, jobs on threads of their own, C++
// exceptions → PhoenixError. The TypeScript side of this contract is src/bindings/native.ts.
//
// Handles (Vector, Images, Session) own native memory and are known to the garbage collector by their size. What a running job uses is
// locked: many readers or one writer a vector, one job a Session or set of images; a clash is ERR_PHOENIX_BUSY. Locks are taken and
// released on the JS thread only. A handle's dispose() lets go of its memory; a job that still uses it keeps it until it ends.
#include <napi.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>

#include "kernels/check.h"
#include "kernels/device.h"
#include "kernels/philox.h"
#include "kernels/simd.h"
#include "metrics/classifier.h"
#include "metrics/metrics.h"
#include "metrics/network.h"
#include "op_table.h"
#include "unet/session.h"

namespace phx {
namespace {

constexpr const char* kArgument = "ERR_PHOENIX_ARGUMENT";
constexpr const char* kShape = "ERR_PHOENIX_SHAPE";
constexpr const char* kDisposed = "ERR_PHOENIX_DISPOSED";
constexpr const char* kBusy = "ERR_PHOENIX_BUSY";
constexpr double kBelowOne = 1 - 1e-12;
constexpr const char* kAborted = "ERR_PHOENIX_ABORTED";  // session.ts puts the signal's own reason in its place

class Job;

struct EnvData {
  Napi::FunctionReference error_class;
  Napi::FunctionReference vector_class, images_class, session_class, abort_class;
  std::set<Job*> jobs;
};
EnvData& data_of(Napi::Env env) { return *env.GetInstanceData<EnvData>(); }

Napi::Value make_error(Napi::Env env, const char* code, const std::string& message) {
  EnvData& data = data_of(env);
  if (data.error_class.IsEmpty()) return Napi::Error::New(env, std::string(code) + ": " + message).Value();
  return data.error_class.New({Napi::String::New(env, code), Napi::String::New(env, message)});
}
[[noreturn]] void raise(Napi::Env env, const char* code, const std::string& message) {
  throw Napi::Error(env, make_error(env, code, message));
}

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

// Runs body on the JS thread with C++ exceptions mapped as a job's are.
template <class F>
auto guarded(Napi::Env env, F body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw Napi::Error(env, error_of(env, std::current_exception()));
  }
}

// ---- locks

struct Lock {
  int readers = 0;
  bool writer = false;
};

// Takes all or nothing; released by the destructor, on the JS thread.
class Locks {
 public:
  void read(Napi::Env env, std::shared_ptr<Lock> lock, const char* what) {
    if (lock->writer) raise(env, kBusy, std::string(what) + " is in use by a running call; await that call first");
    lock->readers++;
    held_.push_back({std::move(lock), false});
  }
  void write(Napi::Env env, std::shared_ptr<Lock> lock, const char* what) {
    if (lock->writer || lock->readers) raise(env, kBusy, std::string(what) + " is in use by a running call; await that call first");
    lock->writer = true;
    held_.push_back({std::move(lock), true});
  }
  void release() {
    for (auto& [lock, writing] : held_) writing ? void(lock->writer = false) : void(lock->readers--);
    held_.clear();
  }
  Locks() = default;
  Locks(Locks&& other) : held_(std::move(other.held_)) { other.held_.clear(); }
  Locks& operator=(Locks&&) = delete;
  ~Locks() { release(); }

 private:
  std::vector<std::pair<std::shared_ptr<Lock>, bool>> held_;
};

// ---- jobs

using Stop = std::shared_ptr<std::atomic<bool>>;

// One asynchronous call: `work` on a thread of its own (not libuv's: those cannot be stopped when the process ends), then `finish` on the
// JS thread makes the promise's value. When the environment goes down, the stop flag is set and the thread joined.
class Job {
 public:
  using Work = std::function<void(Job&)>;
  using Finish = std::function<Napi::Value(Napi::Env)>;

  static Napi::Value start(Napi::Env env, Locks locks, Stop stop, Work work, Finish finish, Napi::Function on_progress = {}) {
    Job* job = new Job(env, std::move(locks), std::move(stop), std::move(work), std::move(finish));
    Napi::Promise promise = job->deferred_.Promise();
    try {
      job->channel_ = Channel::New(env, on_progress, "phoenix", 0, 1, job, [](Napi::Env env, void*, Job* job) {
        job->stop_->store(true);
        if (job->thread_.joinable()) job->thread_.join();
        if (EnvData* data = env.GetInstanceData<EnvData>()) data->jobs.erase(job);
        delete job;
      });
    } catch (...) {
      delete job;
      throw;
    }
    data_of(env).jobs.insert(job);
    try {
      job->thread_ = std::thread([job] { job->run(); });
    } catch (const std::system_error& e) {
      job->locks_.release();
      job->channel_.Release();  // whose end deletes the job
      raise(env, "ERR_PHOENIX_MEMORY", std::string("no thread could be started for this call (") + e.what() + "); end other calls first");
    }
    return promise;
  }

  void report(double done) {
    double* value = new double(done);
    if (channel_.NonBlockingCall(value) != napi_ok) delete value;
  }
  void stop() { stop_->store(true); }

 private:
  static void call(Napi::Env env, Napi::Function on_progress, Job* job, double* done) {
    std::unique_ptr<double> progress(done);
    if (env == nullptr) return;
    try {
      if (!progress)
        job->settle(env);
      else if (!on_progress.IsEmpty() && on_progress.IsFunction())
        on_progress.Call({Napi::Number::New(env, *progress)});
    } catch (const Napi::Error&) {
      // The environment is closing, or the progress callback threw; session.ts guards the callback itself.
    }
  }
  using Channel = Napi::TypedThreadSafeFunction<Job, double, call>;

  Job(Napi::Env env, Locks locks, Stop stop, Work work, Finish finish)
      : deferred_(Napi::Promise::Deferred::New(env)),
        locks_(std::move(locks)),
        stop_(stop ? std::move(stop) : std::make_shared<std::atomic<bool>>(false)),
        work_(std::move(work)),
        finish_(std::move(finish)) {}

  void run() {
    try {
      work_(*this);
    } catch (...) {
      error_ = std::current_exception();
    }
    work_ = {};                  // what only this call still used is freed here, not on the JS thread
    Channel channel = channel_;  // the job may be gone once the channel is released
    channel.BlockingCall(static_cast<double*>(nullptr));
    channel.Release();
  }

  void settle(Napi::Env env) {
    Napi::HandleScope scope(env);
    locks_.release();
    try {
      if (error_) std::rethrow_exception(error_);
      deferred_.Resolve(finish_ ? finish_(env) : env.Undefined());
    } catch (const Napi::Error& e) {
      deferred_.Reject(e.Value());
    } catch (...) {
      deferred_.Reject(error_of(env, std::current_exception()));
    }
  }

  Napi::Promise::Deferred deferred_;
  Locks locks_;
  Stop stop_;
  Work work_;
  Finish finish_;
  Channel channel_;
  std::thread thread_;
  std::exception_ptr error_;
};

// ---- arguments

Napi::Object object(const Napi::CallbackInfo& info, size_t i, const char* name) {
  if (!info[i].IsObject()) raise(info.Env(), kArgument, std::string(name) + ": expected an object");
  return info[i].As<Napi::Object>();
}

double number(Napi::Env env, Napi::Value value, const char* name, double least = -INFINITY, double most = INFINITY) {
  double x = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (!(std::isfinite(x) && x >= least && x <= most)) {
    std::string range = std::isfinite(least) ? " from " + std::to_string(least) : "";
    if (std::isfinite(most)) range += " to " + std::to_string(most);
    raise(env, kArgument, std::string(name) + ": expected a finite number" + range + ", got " + value.ToString().Utf8Value());
  }
  return x;
}
double number(Napi::Object from, const char* name, double least = -INFINITY, double most = INFINITY) {
  return number(from.Env(), from.Get(name), name, least, most);
}
int whole(Napi::Env env, Napi::Value value, const char* name, int least, int most = std::numeric_limits<int>::max()) {
  double x = number(env, value, name, least, most);
  if (x != std::floor(x)) raise(env, kArgument, std::string(name) + ": expected a whole number, got " + std::to_string(x));
  return int(x);
}
int whole(Napi::Object from, const char* name, int least, int most = std::numeric_limits<int>::max()) {
  return whole(from.Env(), from.Get(name), name, least, most);
}
int64_t step_count(Napi::Object from, const char* name) { return int64_t(number(from, name, 0, 9e15)); }
bool flag(Napi::Object from, const char* name) { return from.Get(name).ToBoolean(); }
uint64_t key(Napi::Env env, Napi::Value value) {
  if (!value.IsBigInt()) raise(env, kArgument, "key: expected a 64-bit BigInt");
  bool lossless;
  return value.As<Napi::BigInt>().Uint64Value(&lossless);
}

// Copies: the thread that reads them must not see a transferred buffer.
template <class T, class Array>
std::vector<T> values(Napi::Env env, Napi::Value value, const char* name, napi_typedarray_type type) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type)
    raise(env, kArgument, std::string(name) + ": expected a typed array of another kind");
  Array array = value.As<Array>();
  return std::vector<T>(array.Data(), array.Data() + array.ElementLength());
}
std::vector<int32_t> ints(Napi::Env env, Napi::Value value, const char* name) {
  if (value.IsUndefined()) return {};
  return values<int32_t, Napi::Int32Array>(env, value, name, napi_int32_array);
}
std::vector<double> doubles(Napi::Env env, Napi::Value value, const char* name) {
  return values<double, Napi::Float64Array>(env, value, name, napi_float64_array);
}

// A typed array that takes over a block made by a job, without a copy where the engine allows it.
template <class Array, class T>
Napi::Value adopt(Napi::Env env, std::shared_ptr<std::vector<T>> block, size_t length) {
  size_t bytes = block->size() * sizeof(T);
  auto owner = std::make_unique<std::shared_ptr<std::vector<T>>>(block);
  auto buffer = Napi::ArrayBuffer::New(
      env, block->data(), bytes,
      [](Napi::Env env, void*, std::shared_ptr<std::vector<T>>* owner) {
        Napi::MemoryManagement::AdjustExternalMemory(env, -int64_t((*owner)->size() * sizeof(T)));
        delete owner;
      },
      owner.get());
  owner.release();  // the buffer's from here on
  Napi::MemoryManagement::AdjustExternalMemory(env, int64_t(bytes));
  return Array::New(env, length, buffer, 0);
}

// Lets go of a block, on a thread of its own if it is large: the system takes back 143 MB in about 10 ms.
template <class T>
void let_go_of(std::shared_ptr<T> block, size_t bytes) {
  if (bytes < size_t(64) << 20) return;
  try {
    std::thread([block = std::move(block)]() mutable { block.reset(); }).detach();
  } catch (const std::system_error&) {
    // No thread: the block went with the closure.
  }
}

Napi::Value float_array(Napi::Env env, const std::vector<double>& from) {
  auto array = Napi::Float64Array::New(env, from.size());
  std::copy(from.begin(), from.end(), array.Data());
  return array;
}

// ---- Vector

// Small loops of a handle's own; the pool's threads are for Sessions.
Context& vector_context() {
  thread_local Context context(int(std::max(1u, std::thread::hardware_concurrency())));
  return context;
}

// Values [offset, offset + count) of a Buffer.
std::vector<real> on_host(const Buffer& buffer, size_t offset, size_t count) {
  std::vector<real> values(count);
  device_get(values.data(), buffer.data + offset, count * sizeof(real));
  return values;
}

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
  void let_go(Napi::BasicEnv env) {
    if (--holders == 0) Napi::MemoryManagement::AdjustExternalMemory(env, -int64_t(bytes()));
  }
};

class VectorHandle : public Napi::ObjectWrap<VectorHandle> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Vector",
                       {InstanceAccessor<&VectorHandle::length>("length"),
                        InstanceMethod<&VectorHandle::dispose>("dispose"),
                        InstanceMethod<&VectorHandle::axpy>("axpy"),
                        InstanceMethod<&VectorHandle::scale>("scale"),
                        InstanceMethod<&VectorHandle::fill>("fill"),
                        InstanceMethod<&VectorHandle::subtract>("subtract"),
                        InstanceMethod<&VectorHandle::round_bf16>("roundToBf16"),
                        InstanceMethod<&VectorHandle::interpolate>("interpolate"),
                        InstanceMethod<&VectorHandle::copy>("copy"),
                        InstanceMethod<&VectorHandle::dot>("dot"),
                        InstanceMethod<&VectorHandle::is_finite>("isFinite"),
                        InstanceMethod<&VectorHandle::server_step>("serverStep"),
                        InstanceMethod<&VectorHandle::to_bytes>("toBytes"),
                        InstanceMethod<&VectorHandle::from_bytes>("fromBytes"),
                        InstanceMethod<&VectorHandle::import_tensors>("importTensors"),
                        InstanceMethod<&VectorHandle::export_tensors>("exportTensors"),
                        InstanceMethod<&VectorHandle::encode>("encode"),
                        InstanceMethod<&VectorHandle::decode>("decode"),
                        InstanceMethod<&VectorHandle::encode_largest>("encodeLargest"),
                        InstanceMethod<&VectorHandle::decode_largest>("decodeLargest"),
                        InstanceMethod<&VectorHandle::gather>("gather"),
                        InstanceMethod<&VectorHandle::scatter>("scatter"),
                        InstanceMethod<&VectorHandle::trimmed_mean>("trimmedMean"),
                        InstanceMethod<&VectorHandle::row_distances>("rowDistances")});
  }
  // Made by `wrap` only: the argument is the shared vector.
  explicit VectorHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<VectorHandle>(info) {
    if (!info[0].IsExternal()) raise(info.Env(), kArgument, "a Vector is made by createVector(length)");
    shared_ = *info[0].As<Napi::External<std::shared_ptr<SharedVector>>>().Data();
    shared_->hold(info.Env());
  }
  void Finalize(Napi::BasicEnv env) override { let_go(env); }

  static Napi::Object wrap(Napi::Env env, std::shared_ptr<SharedVector> shared) {
    return data_of(env).vector_class.New({Napi::External<std::shared_ptr<SharedVector>>::New(env, &shared)});
  }
  static std::shared_ptr<SharedVector> get(Napi::Env env, Napi::Value value, const char* name) {
    if (!value.IsObject() || !value.As<Napi::Object>().InstanceOf(data_of(env).vector_class.Value()))
      raise(env, kArgument, std::string(name) + ": expected a Vector");
    auto shared = Unwrap(value.As<Napi::Object>())->shared_;
    if (!shared) raise(env, kDisposed, std::string(name) + " was disposed of");
    return shared;
  }
  void let_go(Napi::BasicEnv env) {
    if (!shared_) return;
    shared_->let_go(env);
    size_t bytes = shared_->bytes();
    let_go_of(std::move(shared_), bytes);
  }

 private:
  SharedVector& self(Napi::Env env) {
    if (!shared_) raise(env, kDisposed, "this Vector was disposed of");
    return *shared_;
  }
  std::shared_ptr<SharedVector> same_length(const Napi::CallbackInfo& info, size_t i, const char* name) {
    auto other = get(info.Env(), info[i], name);
    if (other->buffer->count != self(info.Env()).buffer->count)
      raise(info.Env(), kShape,
            std::string(name) + ": expected a Vector of " + std::to_string(shared_->buffer->count) + " values, got " +
                std::to_string(other->buffer->count));
    return other;
  }
  size_t range(const Napi::CallbackInfo& info, double offset, double count) {
    size_t length = self(info.Env()).buffer->count;
    if (!(offset >= 0 && count >= 0 && offset == std::floor(offset) && count == std::floor(count) && offset + count <= double(length)))
      raise(info.Env(), kShape,
            "range [" + std::to_string(offset) + ", +" + std::to_string(count) + ") outside of a Vector of " + std::to_string(length));
    return size_t(offset);
  }

  Napi::Value length(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), double(self(info.Env()).buffer->count)); }
  Napi::Value dispose(const Napi::CallbackInfo& info) {
    let_go(info.Env());
    return info.Env().Undefined();
  }

  // A job that writes this vector and reads the others.
  Napi::Value change(const Napi::CallbackInfo& info, std::vector<std::shared_ptr<SharedVector>> reads, std::function<void(Buffer&)> work) {
    Locks locks;
    locks.write(info.Env(), self(info.Env()).lock, "the Vector");
    for (auto& other : reads)
      if (other->buffer != shared_->buffer) locks.read(info.Env(), other->lock, "the Vector");
    return Job::start(info.Env(), std::move(locks), {}, [buffer = shared_->buffer, reads, work](Job&) { work(*buffer); }, {});
  }

  Napi::Value axpy(const Napi::CallbackInfo& info) {
    auto x = same_length(info, 0, "x");
    double a = number(info.Env(), info[1], "a");
    return change(info, {x}, [x, a](Buffer& y) { phx::axpy(vector_context(), y.data, x->buffer->data, a, y.count); });
  }
  Napi::Value scale(const Napi::CallbackInfo& info) {
    double a = number(info.Env(), info[0], "a");
    return change(info, {}, [a](Buffer& y) { phx::scale(vector_context(), y.data, a, y.count); });
  }
  Napi::Value fill(const Napi::CallbackInfo& info) {
    double value = number(info.Env(), info[0], "value");
    return change(info, {}, [value](Buffer& y) { device_fill(y.data, real(value), y.count); });
  }
  Napi::Value subtract(const Napi::CallbackInfo& info) {
    auto a = same_length(info, 0, "a"), b = same_length(info, 1, "b");
    return change(info, {a, b}, [a, b](Buffer& y) { phx::subtract(vector_context(), y.data, a->buffer->data, b->buffer->data, y.count); });
  }
  Napi::Value round_bf16(const Napi::CallbackInfo& info) {
    auto x = same_length(info, 0, "from");
    return change(info, {x}, [x](Buffer& y) { phx::round_bf16(vector_context(), y.data, x->buffer->data, y.count); });
  }
  Napi::Value interpolate(const Napi::CallbackInfo& info) {
    auto x = same_length(info, 0, "x");
    double a = number(info.Env(), info[1], "a", 0, 1);
    return change(info, {x}, [x, a](Buffer& y) { phx::interpolate(vector_context(), y.data, x->buffer->data, a, y.count); });
  }
  Napi::Value copy(const Napi::CallbackInfo& info) {
    auto from = same_length(info, 0, "from");
    double count = number(info.Env(), info[2], "count", 0);
    size_t offset = range(info, number(info.Env(), info[1], "offset", 0), count);
    return change(info, {from},
                  [from, offset, count](Buffer& y) { device_copy(y.data + offset, from->buffer->data + offset, size_t(count)); });
  }
  Napi::Value dot(const Napi::CallbackInfo& info) {
    auto other = same_length(info, 0, "other");
    return look(
        info, {other}, [other](const Buffer& a) { return phx::dot(vector_context(), a.data, other->buffer->data, a.count); },
        [](Napi::Env env, double value) { return Napi::Number::New(env, value); });
  }
  Napi::Value is_finite(const Napi::CallbackInfo& info) {
    return look(
        info, {}, [](const Buffer& a) { return phx::all_finite(vector_context(), a.data, a.count) ? 1.0 : 0.0; },
        [](Napi::Env env, double value) { return Napi::Boolean::New(env, value != 0); });
  }
  // A job that reads this vector and the others and yields a number.
  Napi::Value look(const Napi::CallbackInfo& info, std::vector<std::shared_ptr<SharedVector>> reads,
                   std::function<double(const Buffer&)> work, std::function<Napi::Value(Napi::Env, double)> wrap) {
    Locks locks;
    locks.read(info.Env(), self(info.Env()).lock, "the Vector");
    for (auto& other : reads) locks.read(info.Env(), other->lock, "the Vector");
    auto value = std::make_shared<double>(0);
    return Job::start(
        info.Env(), std::move(locks), {}, [buffer = shared_->buffer, reads, work, value](Job&) { *value = work(*buffer); },
        [value, wrap](Napi::Env env) { return wrap(env, *value); });
  }

  Napi::Value server_step(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    std::string kind = info[0].ToString();
    if (kind != "momentum" && kind != "adam" && kind != "yogi")
      raise(env, kArgument, "serverStep: expected momentum, adam or yogi, got " + kind);
    auto delta = same_length(info, 1, "delta"), m = same_length(info, 2, "m");
    auto v = info[3].IsUndefined() ? nullptr : same_length(info, 3, "v");
    if (!v && kind != "momentum") raise(env, kArgument, "serverStep: " + kind + " needs second moments");
    Napi::Object o = object(info, 4, "options");
    ServerStep step{kind == "momentum" ? ServerKind::momentum
                    : kind == "adam"   ? ServerKind::adam
                                       : ServerKind::yogi,
                    number(o, "lr", 0), number(o, "beta1", 0, 1), number(o, "beta2", 0, 1), number(o, "tau", 0)};
    Locks locks;
    locks.write(env, self(env).lock, "the Vector");
    locks.read(env, delta->lock, "delta");
    locks.write(env, m->lock, "m");
    if (v) locks.write(env, v->lock, "v");
    return Job::start(env, std::move(locks), {},
                      [p = shared_->buffer, delta, m, v, step](Job&) {
                        phx::server_step(vector_context(), p->data, delta->buffer->data, m->buffer->data, v ? v->buffer->data : nullptr,
                                         p->count, step);
                      },
                      {});
  }

  Napi::Value to_bytes(const Napi::CallbackInfo& info) {
    double count = number(info.Env(), info[1], "count", 0);
    size_t offset = range(info, number(info.Env(), info[0], "offset", 0), count), n = size_t(count);
    Locks locks;
    locks.read(info.Env(), shared_->lock, "the Vector");
    auto block = std::make_shared<std::vector<float>>();
    return Job::start(
        info.Env(), std::move(locks), {},
        [block, buffer = shared_->buffer, offset, n](Job&) {
          std::vector<real> values = on_host(*buffer, offset, n);
          block->assign(values.begin(), values.end());
        },
        [block, n](Napi::Env env) { return adopt<Napi::Uint8Array>(env, block, n * sizeof(float)); });
  }

  bool is_int8(const Napi::CallbackInfo& info) {
    std::string codec = info[0].ToString();
    if (codec != "bf16" && codec != "int8") raise(info.Env(), kArgument, "codec: expected bf16 or int8, got " + codec);
    return codec == "int8";
  }
  Napi::Value encode(const Napi::CallbackInfo& info) {
    bool int8 = is_int8(info);
    double count = number(info.Env(), info[2], "count", 0);
    size_t offset = range(info, number(info.Env(), info[1], "offset", 0), count), n = size_t(count);
    Locks locks;
    locks.read(info.Env(), shared_->lock, "the Vector");
    auto block = std::make_shared<std::vector<uint8_t>>();
    return Job::start(
        info.Env(), std::move(locks), {},
        [block, buffer = shared_->buffer, offset, n, int8](Job&) {
          block->resize(int8 ? int8_bytes(n) : 2 * n);
          OnHost values(buffer->data + offset, n);
          (int8 ? encode_int8 : encode_bf16)(vector_context(), block->data(), values.data(), n);
        },
        [block](Napi::Env env) { return adopt<Napi::Uint8Array>(env, block, block->size()); });
  }
  Napi::Value decode(const Napi::CallbackInfo& info) {
    bool int8 = is_int8(info);
    auto bytes = std::make_shared<std::vector<uint8_t>>(values<uint8_t, Napi::Uint8Array>(info.Env(), info[1], "bytes", napi_uint8_array));
    double count = number(info.Env(), info[3], "count", 0);
    size_t offset = range(info, number(info.Env(), info[2], "offset", 0), count), n = size_t(count);
    if (bytes->size() != (int8 ? int8_bytes(n) : 2 * n))
      raise(info.Env(), kShape, "decode: " + std::to_string(n) + " values do not take " + std::to_string(bytes->size()) + " bytes");
    return change(info, {}, [bytes, offset, n, int8](Buffer& y) {
      OnHost values(y.data + offset, n, false);
      (int8 ? decode_int8 : decode_bf16)(vector_context(), values.data(), bytes->data(), n);
      values.put_back();
    });
  }
  Napi::Value encode_largest(const Napi::CallbackInfo& info) {
    size_t k = size_t(number(info.Env(), info[0], "k", 1, double(self(info.Env()).buffer->count)));
    Locks locks;
    locks.read(info.Env(), shared_->lock, "the Vector");
    auto block = std::make_shared<std::vector<uint8_t>>();
    return Job::start(
        info.Env(), std::move(locks), {},
        [block, buffer = shared_->buffer, k](Job&) {
          OnHost values(buffer->data, buffer->count);
          *block = phx::encode_largest(vector_context(), values.data(), buffer->count, k);
        },
        [block](Napi::Env env) { return adopt<Napi::Uint8Array>(env, block, block->size()); });
  }
  Napi::Value decode_largest(const Napi::CallbackInfo& info) {
    auto bytes = std::make_shared<std::vector<uint8_t>>(values<uint8_t, Napi::Uint8Array>(info.Env(), info[0], "bytes", napi_uint8_array));
    return change(info, {}, [bytes](Buffer& y) {
      OnHost values(y.data, y.count, false);
      phx::decode_largest(vector_context(), values.data(), y.count, bytes->data(), bytes->size());
      values.put_back();
    });
  }

  // Ranges as pairs (offset, count) within `whole` values, together `packed` of them.
  std::vector<std::pair<size_t, size_t>> ranges(Napi::Env env, Napi::Value value, size_t whole, size_t packed) {
    std::vector<double> pairs = doubles(env, value, "ranges");
    std::vector<std::pair<size_t, size_t>> result;
    double sum = 0;
    bool fits = pairs.size() % 2 == 0;
    for (size_t i = 0; fits && i < pairs.size(); i += 2) {
      double offset = pairs[i], count = pairs[i + 1];
      fits = offset >= 0 && count >= 0 && offset == std::floor(offset) && count == std::floor(count) && offset + count <= double(whole);
      sum += count;
      if (fits) result.emplace_back(size_t(offset), size_t(count));
    }
    if (!fits || sum != double(packed))
      raise(env, kShape, "ranges: expected pairs within " + std::to_string(whole) + " values, together " + std::to_string(packed));
    return result;
  }
  Napi::Value gather(const Napi::CallbackInfo& info) {
    auto from = get(info.Env(), info[0], "from");
    auto pairs = ranges(info.Env(), info[1], from->buffer->count, self(info.Env()).buffer->count);
    return change(info, {from}, [from, pairs](Buffer& y) {
      real* to = y.data;
      for (auto [offset, count] : pairs) device_copy(to, from->buffer->data + offset, count), to += count;
    });
  }
  Napi::Value scatter(const Napi::CallbackInfo& info) {
    auto from = get(info.Env(), info[0], "from");
    auto pairs = ranges(info.Env(), info[1], self(info.Env()).buffer->count, from->buffer->count);
    return change(info, {from}, [from, pairs](Buffer& y) {
      const real* next = from->buffer->data;
      for (auto [offset, count] : pairs) device_copy(y.data + offset, next, count), next += count;
    });
  }

  Napi::Value trimmed_mean(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto rows = get(env, info[0], "rows");
    Napi::Object o = object(info, 1, "options");
    size_t n = size_t(whole(o, "rows", 1)), columns = size_t(number(o, "columns", 1, 1e12)), trim = size_t(whole(o, "trim", 0));
    if (double(n) * double(columns) > double(rows->buffer->count)) raise(env, kShape, "trimmedMean: rows·columns values expected");
    size_t offset = range(info, number(o, "offset", 0), double(columns));
    if (rows->buffer == shared_->buffer) raise(env, kArgument, "trimmedMean: expected rows in a Vector of their own");
    return change(info, {rows}, [rows, n, columns, trim, offset](Buffer& y) {
      OnHost values(rows->buffer->data, n * columns), mean(y.data + offset, columns, false);
      phx::trimmed_mean(vector_context(), mean.data(), values.data(), n, columns, trim);
      mean.put_back();
    });
  }
  Napi::Value row_distances(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    size_t n = size_t(whole(env, info[0], "rows", 1, 10000)), columns = size_t(number(env, info[1], "columns", 1, 1e12));
    range(info, 0, double(n) * double(columns));
    Locks locks;
    locks.read(env, shared_->lock, "the Vector");
    auto squared = std::make_shared<std::vector<double>>(n * n);
    return Job::start(
        env, std::move(locks), {},
        [squared, buffer = shared_->buffer, n, columns](Job&) {
          OnHost values(buffer->data, n * columns);
          phx::row_distances(vector_context(), squared->data(), values.data(), n, columns);
        },
        [squared](Napi::Env env) { return float_array(env, *squared); });
  }

  Napi::Value from_bytes(const Napi::CallbackInfo& info) {
    auto bytes = std::make_shared<std::vector<uint8_t>>(values<uint8_t, Napi::Uint8Array>(info.Env(), info[0], "bytes", napi_uint8_array));
    if (bytes->size() % sizeof(float))
      raise(info.Env(), kShape, "fromBytes: expected whole float32 values, got " + std::to_string(bytes->size()) + " bytes");
    size_t n = bytes->size() / sizeof(float), offset = range(info, number(info.Env(), info[1], "offset", 0), double(n));
    return change(info, {}, [bytes, n, offset](Buffer& y) {
      std::vector<real> values(n);
      for (size_t i = 0; i < n; i++) {
        float value;
        std::memcpy(&value, bytes->data() + 4 * i, 4);
        values[i] = real(value);
      }
      device_put(y.data + offset, values.data(), n * sizeof(real));
    });
  }

  // One tensor of a checkpoint: where it lies in the vector and in the file, and how (K,C,R·S) is permuted.
  struct Entry {
    size_t offset, count, byte_offset, k, c, taps;
    size_t in_range(size_t i) const {  // file position i → position in the vector, from offset
      size_t tap = i % taps, channel = i / taps % c, out = i / taps / c;
      return (out * taps + tap) * c + channel;
    }
  };
  std::vector<Entry> entries(const Napi::CallbackInfo& info, Napi::Value value, size_t bytes, size_t item) {
    Napi::Env env = info.Env();
    std::vector<double> raw = doubles(env, value, "entries");
    if (raw.size() % 6) raise(env, kArgument, "entries: expected six numbers a tensor");
    std::vector<Entry> result;
    for (size_t i = 0; i < raw.size(); i += 6) {
      for (size_t j = 0; j < 6; j++)
        if (!(raw[i + j] >= 0 && raw[i + j] <= 9e15 && raw[i + j] == std::floor(raw[i + j])))
          raise(env, kArgument, "entries: expected whole numbers from 0");
      Entry e{range(info, raw[i], raw[i + 1]),
              size_t(raw[i + 1]),
              size_t(raw[i + 2]),
              size_t(raw[i + 3]),
              size_t(raw[i + 4]),
              size_t(raw[i + 5])};
      if (double(raw[i + 3]) * raw[i + 4] * raw[i + 5] != raw[i + 1]) raise(env, kShape, "entries: count is not K·C·R·S");
      if (e.byte_offset > bytes || e.count > (bytes - e.byte_offset) / item)
        raise(env, kShape, "entries: a tensor lies outside of the bytes");
      result.push_back(e);
    }
    return result;
  }

  static double decode(const uint8_t* at, const std::string& dtype) {
    if (dtype == "F64") {
      double value;
      std::memcpy(&value, at, 8);
      return value;
    }
    if (dtype == "F32") {
      float value;
      std::memcpy(&value, at, 4);
      return value;
    }
    uint16_t half;
    std::memcpy(&half, at, 2);
    if (dtype == "BF16") {
      uint32_t bits = uint32_t(half) << 16;
      float value;
      std::memcpy(&value, &bits, 4);
      return value;
    }
    int exponent = half >> 10 & 31, fraction = half & 1023;
    double magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                       : exponent     ? std::ldexp(1024 + fraction, exponent - 25)
                                      : std::ldexp(fraction, -24);
    return half & 0x8000 ? -magnitude : magnitude;
  }

  Napi::Value import_tensors(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto bytes = std::make_shared<std::vector<uint8_t>>(values<uint8_t, Napi::Uint8Array>(env, info[0], "bytes", napi_uint8_array));
    std::string dtype = info[1].ToString();
    size_t item = dtype == "F64" ? 8 : dtype == "F32" ? 4 : dtype == "F16" || dtype == "BF16" ? 2 : 0;
    if (!item) raise(env, kArgument, "importTensors: expected F64, F32, F16 or BF16, got " + dtype);
    auto list = entries(info, info[2], bytes->size(), item);
    return change(info, {}, [bytes, dtype, item, list](Buffer& y) {
      for (const Entry& e : list) {
        std::vector<real> values(e.count);
        for (size_t i = 0; i < e.count; i++) values[e.in_range(i)] = real(decode(bytes->data() + e.byte_offset + i * item, dtype));
        device_put(y.data + e.offset, values.data(), e.count * sizeof(real));
      }
    });
  }

  Napi::Value export_tensors(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    size_t bytes = size_t(number(env, info[0], "byteLength", 0, 4e9));
    if (bytes % sizeof(float)) raise(env, kShape, "exportTensors: expected a length of whole float32 values");
    auto list = entries(info, info[1], bytes, sizeof(float));
    for (const Entry& e : list)
      if (e.byte_offset % sizeof(float)) raise(env, kShape, "exportTensors: expected byte offsets that are multiples of 4");
    Locks locks;
    locks.read(env, self(env).lock, "the Vector");
    auto block = std::make_shared<std::vector<float>>();
    return Job::start(
        env, std::move(locks), {},
        [block, buffer = shared_->buffer, list, bytes](Job&) {
          block->assign(bytes / sizeof(float), 0.0f);
          for (const Entry& e : list) {
            std::vector<real> values = on_host(*buffer, e.offset, e.count);
            for (size_t i = 0; i < e.count; i++) (*block)[e.byte_offset / sizeof(float) + i] = float(values[e.in_range(i)]);
          }
        },
        [block, bytes](Napi::Env env) { return adopt<Napi::Uint8Array>(env, block, bytes); });
  }

  std::shared_ptr<SharedVector> shared_;
};

// ---- Images

class ImagesHandle : public Napi::ObjectWrap<ImagesHandle> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Images",
                       {InstanceAccessor<&ImagesHandle::count>("count"), InstanceAccessor<&ImagesHandle::bytes>("bytes"),
                        InstanceMethod<&ImagesHandle::write>("write"), InstanceMethod<&ImagesHandle::dispose>("dispose")});
  }
  explicit ImagesHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ImagesHandle>(info) {
    Napi::Env env = info.Env();
    size_t count = size_t(whole(env, info[0], "count", 1, 2000000000));
    int h = whole(env, info[1], "height", 1, 65536), w = whole(env, info[2], "width", 1, 65536),
        c = whole(env, info[3], "channels", 1, 1024);
    if (double(count) * h * w * c > 1e15) raise(env, "ERR_PHOENIX_MEMORY", "not enough memory for that many images");
    guarded(env, [&] {
      images_ = std::make_shared<Images>(count, h, w, c);
      return 0;
    });
    Napi::MemoryManagement::AdjustExternalMemory(env, int64_t(images_->bytes()));
  }
  void Finalize(Napi::BasicEnv env) override { let_go(env); }

  static ImagesHandle& get(Napi::Env env, Napi::Value value) {
    if (!value.IsObject() || !value.As<Napi::Object>().InstanceOf(data_of(env).images_class.Value()))
      raise(env, kArgument, "images: expected Images");
    ImagesHandle* handle = Unwrap(value.As<Napi::Object>());
    if (!handle->images_) raise(env, kDisposed, "these Images were disposed of");
    return *handle;
  }
  std::shared_ptr<Images> images() const { return images_; }
  std::shared_ptr<Lock> lock() const { return lock_; }

 private:
  void let_go(Napi::BasicEnv env) {
    if (!images_) return;
    size_t bytes = images_->bytes();
    Napi::MemoryManagement::AdjustExternalMemory(env, -int64_t(bytes));
    let_go_of(std::move(images_), bytes);
  }
  ImagesHandle& self(const Napi::CallbackInfo& info) { return get(info.Env(), info.This()); }
  Napi::Value count(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), double(self(info).images_->count)); }
  Napi::Value bytes(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), double(self(info).images_->bytes())); }
  // Copies bytes to byte position `offset`, at once: callers write in pieces.
  Napi::Value write(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    self(info);
    if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
      raise(env, kArgument, "pixels: expected a Uint8Array");
    auto pixels = info[0].As<Napi::Uint8Array>();
    double offset = number(env, info[1], "offset", 0, 1e15);
    if (offset + double(pixels.ByteLength()) > double(images_->bytes()))
      raise(env, kShape,
            "pixels: " + std::to_string(pixels.ByteLength()) + " bytes at " + std::to_string(size_t(offset)) + " do not fit into " +
                std::to_string(images_->bytes()));
    if (lock_->readers) raise(env, kBusy, "these Images are in use by a running call; await that call first");
    guarded(env, [&] {
      device_put(images_->block.data() + size_t(offset), pixels.Data(), pixels.ByteLength());
      return 0;
    });
    return env.Undefined();
  }
  Napi::Value dispose(const Napi::CallbackInfo& info) {
    let_go(info.Env());
    return info.Env().Undefined();
  }
  std::shared_ptr<Images> images_;
  std::shared_ptr<Lock> lock_ = std::make_shared<Lock>();
};

// ---- Abort

class AbortHandle : public Napi::ObjectWrap<AbortHandle> {
 public:
  static Napi::Function define(Napi::Env env) { return DefineClass(env, "Abort", {InstanceMethod<&AbortHandle::abort>("abort")}); }
  explicit AbortHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<AbortHandle>(info) {}
  static Stop get(Napi::Env env, Napi::Value value) {
    if (value.IsUndefined()) return std::make_shared<std::atomic<bool>>(false);
    if (!value.IsObject() || !value.As<Napi::Object>().InstanceOf(data_of(env).abort_class.Value()))
      raise(env, kArgument, "abort: expected the result of createAbort()");
    return Unwrap(value.As<Napi::Object>())->stop_;
  }

 private:
  Napi::Value abort(const Napi::CallbackInfo& info) {
    stop_->store(true);
    return info.Env().Undefined();
  }
  Stop stop_ = std::make_shared<std::atomic<bool>>(false);
};

// ---- Session

UNetConfig unet_config(Napi::Object o) {
  Napi::Env env = o.Env();
  UNetConfig c;
  c.height = whole(o, "height", 1, 4096), c.width = whole(o, "width", 1, 4096);
  c.in_channels = whole(o, "inChannels", 1, 1024), c.out_channels = whole(o, "outChannels", 1, 1024);
  c.layers_per_block = whole(o, "layersPerBlock", 1, 64);
  c.attention_head_dim = whole(o, "attentionHeadDim", 0, 65536);
  c.groups = whole(o, "groups", 1, 65536);
  c.norm_eps = number(o, "normEps", 0, 1);
  c.dropout = number(o, "dropout", 0, 0.99);
  c.classes = whole(o, "classes", 0, 1 << 20);
  c.flip_sin_to_cos = flag(o, "flipSinToCos");
  c.freq_shift = whole(o, "freqShift", 0, 1);
  c.downsample_padding = whole(o, "downsamplePadding", 0, 1);
  if (!o.Get("blockOutChannels").IsArray() || !o.Get("attention").IsArray())
    raise(env, kArgument, "unet: blockOutChannels and attention must be arrays");
  Napi::Array widths = o.Get("blockOutChannels").As<Napi::Array>(), attention = o.Get("attention").As<Napi::Array>();
  if (widths.Length() > 12) raise(env, kArgument, "unet: expected at most 12 levels");
  for (uint32_t i = 0; i < widths.Length(); i++) c.block_out_channels.push_back(whole(env, widths.Get(i), "blockOutChannels", 1, 65536));
  for (uint32_t i = 0; i < attention.Length(); i++) c.attention.push_back(attention.Get(i).ToBoolean());
  return c;
}

NoiseSchedule noise_schedule(Napi::Object o) {
  std::string prediction = o.Get("prediction").ToString();
  if (prediction != "eps" && prediction != "x0" && prediction != "v")
    raise(o.Env(), kArgument, "prediction: expected eps, x0 or v, got " + prediction);
  NoiseSchedule noise{prediction == "eps"  ? Prediction::eps
                      : prediction == "x0" ? Prediction::x0
                                           : Prediction::v,
                      doubles(o.Env(), o.Get("alphaBar"), "alphaBar")};
  for (double a : noise.alpha_bar)
    if (!(a > 0 && a < 1)) raise(o.Env(), kArgument, "alphaBar: expected values between 0 and 1");
  return noise;
}

class SessionHandle : public Napi::ObjectWrap<SessionHandle> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Session",
                       {InstanceAccessor<&SessionHandle::parameters>("parameters"), InstanceAccessor<&SessionHandle::params>("params"),
                        InstanceAccessor<&SessionHandle::ema>("ema"), InstanceAccessor<&SessionHandle::adam_m>("adamM"),
                        InstanceAccessor<&SessionHandle::adam_v>("adamV"), InstanceMethod<&SessionHandle::init>("init"),
                        InstanceMethod<&SessionHandle::train>("train"), InstanceMethod<&SessionHandle::eval_loss>("evalLoss"),
                        InstanceMethod<&SessionHandle::sample>("sample"), InstanceMethod<&SessionHandle::forward>("forward"),
                        InstanceMethod<&SessionHandle::gradient>("gradient"), InstanceMethod<&SessionHandle::memory>("memory"),
                        InstanceMethod<&SessionHandle::dispose>("dispose")});
  }
  explicit SessionHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SessionHandle>(info) {
    Napi::Env env = info.Env();
    Napi::Object options = object(info, 2, "options");
    int threads = whole(options, "threads", 1, 1024);
    Type precision = flag(options, "bf16") ? Type::bf16 : Type::real;
    guarded(env, [&] {
      session_ =
          std::make_shared<Session>(unet_config(object(info, 0, "unet")), noise_schedule(object(info, 1, "noise")), threads, precision);
      params_ = std::make_shared<SharedVector>(SharedVector{session_->params()});
      return 0;
    });
    params_->hold(env);
    account(env);
  }
  void Finalize(Napi::BasicEnv env) override { let_go(env); }

 private:
  Session& self(const Napi::CallbackInfo& info) {
    if (!session_) raise(info.Env(), kDisposed, "this Session was disposed of; create a new one");
    return *session_;
  }
  // Tells the garbage collector of what the Session holds besides its shared vectors. Not while a job runs, which may change it.
  void account(Napi::BasicEnv env) {
    optimizer_bytes_ = session_ ? session_->optimizer_bytes() : 0;
    activation_bytes_ = session_ ? session_->activation_bytes() : 0;
    int64_t bytes = int64_t(optimizer_bytes_ + activation_bytes_);
    for (const auto& vector : {ema_, m_, v_})
      if (vector) bytes -= int64_t(vector->bytes());
    if (bytes != accounted_) Napi::MemoryManagement::AdjustExternalMemory(env, bytes - accounted_);
    accounted_ = bytes;
  }
  void let_go(Napi::BasicEnv env) {
    if (!session_) return;
    size_t bytes = params_->bytes() + optimizer_bytes_ + activation_bytes_;
    for (auto* vector : {&params_, &ema_, &m_, &v_}) {
      if (*vector) (*vector)->let_go(env);
      vector->reset();
    }
    let_go_of(std::move(session_), bytes);
    account(env);
  }
  Locks locked(const Napi::CallbackInfo& info) {
    self(info);
    Locks locks;
    locks.write(info.Env(), lock_, "the Session");
    return locks;
  }
  // A job on the Session. The handle object is kept alive until it has settled.
  Napi::Value job(const Napi::CallbackInfo& info, Locks locks, Stop stop, Job::Work work, Job::Finish finish,
                  Napi::Function progress = {}) {
    auto keep = std::make_shared<Napi::ObjectReference>(Napi::Persistent(info.This().As<Napi::Object>()));
    return Job::start(
        info.Env(), std::move(locks), std::move(stop), std::move(work),
        [this, keep, finish](Napi::Env env) {
          account(env);
          return finish ? finish(env) : env.Undefined();
        },
        progress);
  }

  Napi::Value parameters(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    const auto& list = self(info).net().parameters();
    Napi::Array result = Napi::Array::New(env, list.size());
    for (size_t i = 0; i < list.size(); i++) {
      Napi::Object entry = Napi::Object::New(env);
      entry.Set("name", list[i].name);
      entry.Set("offset", double(list[i].at.offset));
      entry.Set("count", double(list[i].at.count()));
      Napi::Array shape = Napi::Array::New(env, list[i].shape.size());
      for (size_t d = 0; d < list[i].shape.size(); d++) shape.Set(uint32_t(d), list[i].shape[d]);
      entry.Set("shape", shape);
      result.Set(uint32_t(i), entry);
    }
    return result;
  }
  std::shared_ptr<SharedVector> lazily(Napi::Env env, std::shared_ptr<SharedVector>& vector, BufferPtr (Session::*make)()) {
    if (vector) return vector;
    vector = std::make_shared<SharedVector>(SharedVector{((*session_).*make)()});
    vector->hold(env);
    return vector;
  }
  // The vectors of a Session share its lock where they are made, so that making one cannot race with a running job.
  Napi::Value vector(const Napi::CallbackInfo& info, std::shared_ptr<SharedVector>& vector, BufferPtr (Session::*make)()) {
    self(info);
    if (!vector && lock_->writer) raise(info.Env(), kBusy, "the Session is in use by a running call; await that call first");
    return guarded(info.Env(), [&] { return VectorHandle::wrap(info.Env(), lazily(info.Env(), vector, make)); });
  }
  Napi::Value params(const Napi::CallbackInfo& info) {
    self(info);
    return VectorHandle::wrap(info.Env(), params_);
  }
  Napi::Value ema(const Napi::CallbackInfo& info) { return vector(info, ema_, &Session::ema); }
  Napi::Value adam_m(const Napi::CallbackInfo& info) { return vector(info, m_, &Session::adam_m); }
  Napi::Value adam_v(const Napi::CallbackInfo& info) { return vector(info, v_, &Session::adam_v); }

  Napi::Value init(const Napi::CallbackInfo& info) {
    uint64_t seed = key(info.Env(), info[0]);
    Locks locks = locked(info);
    locks.write(info.Env(), params_->lock, "the Session's parameters");
    return job(info, std::move(locks), {}, [session = session_, seed](Job&) { session->init(seed); }, {});
  }

  Napi::Value train(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    Locks locks = locked(info);
    ImagesHandle& images = ImagesHandle::get(env, info[0]);
    Napi::Object o = object(info, 1, "options");
    TrainOptions t;
    t.steps = whole(o, "steps", 1), t.batch = whole(o, "batch", 1);
    t.indices = ints(env, o.Get("indices"), "indices");
    t.classes = ints(env, o.Get("classes"), "classes");
    t.flip = flag(o, "flip");
    t.min_snr_gamma = number(o, "minSnrGamma", 0);
    t.key = key(env, o.Get("key"));
    t.first_step = uint32_t(number(o, "firstStep", 0, 4294967295.0 - t.steps));
    t.lr = number(o, "lr", 0), t.warmup = number(o, "warmup", 0);
    t.beta1 = number(o, "beta1", 0, kBelowOne), t.beta2 = number(o, "beta2", 0, kBelowOne), t.eps = number(o, "eps", 0);
    t.weight_decay = number(o, "weightDecay", 0), t.clip = number(o, "clip", 0), t.ema_decay = number(o, "emaDecay", 0, 1);
    t.global_step = step_count(o, "globalStep"), t.adam_step = step_count(o, "adamStep");
    t.mu = number(o, "mu", 0);
    guarded(env, [&] {
      lazily(env, m_, &Session::adam_m), lazily(env, v_, &Session::adam_v);
      if (t.ema_decay > 0) lazily(env, ema_, &Session::ema);
      return 0;
    });
    locks.write(env, params_->lock, "the Session's parameters");
    locks.write(env, m_->lock, "the Session's moments");
    locks.write(env, v_->lock, "the Session's moments");
    if (t.ema_decay > 0) locks.write(env, ema_->lock, "the Session's EMA");
    locks.read(env, images.lock(), "the Images");
    if (t.mu > 0) {
      auto anchor = VectorHandle::get(env, o.Get("anchor"), "anchor");
      if (anchor->buffer == params_->buffer) raise(env, kArgument, "anchor: expected another Vector than the Session's own parameters");
      locks.read(env, anchor->lock, "the anchor");
      t.anchor = anchor->buffer;
    }
    Stop stop = AbortHandle::get(env, info[2]);
    auto result = std::make_shared<Session::TrainResult>();
    return job(
        info, std::move(locks), stop,
        [session = session_, pixels = images.images(), t = std::move(t), stop, result](Job&) {
          *result = session->train(*pixels, t, stop.get());
        },
        [result](Napi::Env env) {
          Napi::Object value = Napi::Object::New(env);
          value.Set("losses", float_array(env, result->losses));
          value.Set("gradNorms", float_array(env, result->grad_norms));
          return value;
        });
  }

  Napi::Value eval_loss(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    Locks locks = locked(info);
    ImagesHandle& images = ImagesHandle::get(env, info[0]);
    Napi::Object o = object(info, 1, "options");
    auto weights = VectorHandle::get(env, o.Get("weights"), "weights");
    EvalOptions e{ints(env, o.Get("indices"), "indices"), ints(env, o.Get("classes"), "classes"), whole(o, "batch", 1),
                  key(env, o.Get("key")), weights->buffer};
    locks.read(env, weights->lock, "the weights");
    locks.read(env, images.lock(), "the Images");
    Stop stop = AbortHandle::get(env, info[2]);
    auto loss = std::make_shared<double>(0);
    return job(
        info, std::move(locks), stop,
        [session = session_, pixels = images.images(), e = std::move(e), stop, loss](Job&) {
          *loss = session->eval_loss(*pixels, e, stop.get());
        },
        [loss](Napi::Env env) { return Napi::Number::New(env, *loss); });
  }

  Napi::Value sample(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    Locks locks = locked(info);
    Napi::Object o = object(info, 0, "options");
    auto weights = VectorHandle::get(env, o.Get("weights"), "weights");
    SampleOptions s;
    s.count = whole(o, "count", 1), s.batch = whole(o, "batch", 1);
    s.table = doubles(env, o.Get("table"), "table");
    for (double value : s.table) number(env, Napi::Number::New(env, value), "table");
    s.clip = flag(o, "clip");
    s.key = key(env, o.Get("key"));
    s.first_image = uint32_t(number(o, "firstImage", 0, 4294967295.0 - s.count));
    s.classes = ints(env, o.Get("classes"), "classes");
    s.weights = weights->buffer;
    locks.read(env, weights->lock, "the weights");
    Stop stop = AbortHandle::get(env, info[1]);
    Napi::Function progress = o.Get("onProgress").IsFunction() ? o.Get("onProgress").As<Napi::Function>() : Napi::Function();
    auto images = std::make_shared<std::vector<float>>();
    return job(
        info, std::move(locks), stop,
        [session = session_, s = std::move(s), stop, images](Job& job) mutable {
          s.on_progress = [&job](double done) { job.report(done); };
          *images = session->sample(s, stop.get());
        },
        [images](Napi::Env env) { return adopt<Napi::Float32Array>(env, images, images->size()); }, progress);
  }

  Napi::Value forward(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    Locks locks = locked(info);
    auto x = doubles(env, info[0], "x"), t = doubles(env, info[1], "t");
    auto weights = VectorHandle::get(env, info[2], "weights");
    auto classes = ints(env, info[3], "classes");
    locks.read(env, weights->lock, "the weights");
    auto output = std::make_shared<std::vector<double>>();
    return job(
        info, std::move(locks), {}, [=, session = session_](Job&) { *output = session->forward(x, t, classes, weights->buffer); },
        [output](Napi::Env env) { return float_array(env, *output); });
  }

  Napi::Value gradient(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    Locks locks = locked(info);
    auto x = doubles(env, info[0], "x"), t = doubles(env, info[1], "t"), target = doubles(env, info[2], "target");
    auto weights = VectorHandle::get(env, info[3], "weights");
    auto classes = ints(env, info[4], "classes");
    locks.read(env, weights->lock, "the weights");
    auto result = std::make_shared<Session::GradientResult>();
    return job(
        info, std::move(locks), {}, [=, session = session_](Job&) { *result = session->gradient(x, t, target, classes, weights->buffer); },
        [result](Napi::Env env) {
          Napi::Object value = Napi::Object::New(env);
          value.Set("loss", result->loss);
          value.Set("output", float_array(env, result->output));
          value.Set("gradient", VectorHandle::wrap(env, std::make_shared<SharedVector>(SharedVector{result->gradient})));
          return value;
        });
  }

  Napi::Value memory(const Napi::CallbackInfo& info) {
    self(info);
    if (!lock_->writer) account(info.Env());  // while a call runs: as it was before
    Napi::Object value = Napi::Object::New(info.Env());
    value.Set("parameters", double(params_->bytes()));
    value.Set("optimizer", double(optimizer_bytes_));
    value.Set("activations", double(activation_bytes_));
    return value;
  }
  Napi::Value dispose(const Napi::CallbackInfo& info) {
    let_go(info.Env());
    return info.Env().Undefined();
  }

  std::shared_ptr<Session> session_;
  std::shared_ptr<Lock> lock_ = std::make_shared<Lock>();
  std::shared_ptr<SharedVector> params_, ema_, m_, v_;
  size_t optimizer_bytes_ = 0, activation_bytes_ = 0;
  int64_t accounted_ = 0;
};

// ---- functions

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

Napi::Value create_vector(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  double length = number(env, info[0], "length", 1, 1e12);
  if (length != std::floor(length)) raise(env, kArgument, "length: expected a whole number, got " + std::to_string(length));
  return guarded(
      env, [&] { return VectorHandle::wrap(env, std::make_shared<SharedVector>(SharedVector{std::make_shared<Buffer>(size_t(length))})); });
}

template <Napi::FunctionReference EnvData::*handle>
Napi::Value create(const Napi::CallbackInfo& info) {
  std::vector<napi_value> arguments;
  for (size_t i = 0; i < info.Length(); i++) arguments.push_back(info[i]);
  return (data_of(info.Env()).*handle).New(arguments);
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

// ---- metrics

// Numbers of either width, as doubles. Copied, as all arguments are.
std::vector<double> any_reals(Napi::Env env, Napi::Value value, const char* name) {
  if (value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_float32_array) {
    auto array = value.As<Napi::Float32Array>();
    return std::vector<double>(array.Data(), array.Data() + array.ElementLength());
  }
  return doubles(env, value, name);
}
Features features(const Napi::CallbackInfo& info, size_t i) {
  Napi::Env env = info.Env();
  Napi::Object o = object(info, i, "features");
  Features x{any_reals(env, o.Get("data"), "data"), size_t(whole(o, "rows", 1)), size_t(whole(o, "columns", 1, 65536))};
  if (x.data.size() != x.rows * x.columns)
    raise(env, kShape, "features: expected " + std::to_string(x.rows * x.columns) + " values, got " + std::to_string(x.data.size()));
  return x;
}
Moments moments_of(const Napi::CallbackInfo& info, size_t i) {
  Napi::Object o = object(info, i, "moments");
  return {doubles(info.Env(), o.Get("mean"), "mean"), doubles(info.Env(), o.Get("covariance"), "covariance")};
}
Napi::Value int_array(Napi::Env env, const std::vector<int32_t>& from) {
  auto array = Napi::Int32Array::New(env, from.size());
  std::copy(from.begin(), from.end(), array.Data());
  return array;
}

// A job that computes a result on some threads of the pool; `threads` is the last argument of every metric.
template <class Result>
Napi::Value measure(const Napi::CallbackInfo& info, std::function<Result(Context&)> work,
                    std::function<Napi::Value(Napi::Env, const Result&)> finish) {
  int threads = whole(info.Env(), info[info.Length() - 1], "threads", 1, 1024);
  auto result = std::make_shared<Result>();
  return Job::start(
      info.Env(), {}, {},
      [work, result, threads](Job&) {
        Context context(threads);
        *result = work(context);
      },
      [finish, result](Napi::Env env) { return finish(env, *result); });
}

Napi::Value moments_metric(const Napi::CallbackInfo& info) {
  return measure<Moments>(
      info, [x = features(info, 0)](Context& ctx) { return moments(ctx, x); },
      [](Napi::Env env, const Moments& m) {
        Napi::Object value = Napi::Object::New(env);
        value.Set("mean", float_array(env, m.mean));
        value.Set("covariance", float_array(env, m.covariance));
        return value;
      });
}

Napi::Value frechet_metric(const Napi::CallbackInfo& info) {
  return measure<double>(
      info, [a = moments_of(info, 0), b = moments_of(info, 1)](Context& ctx) { return frechet_distance(ctx, a, b); },
      [](Napi::Env env, const double& distance) { return Napi::Number::New(env, distance); });
}

Napi::Value neighbours_metric(const Napi::CallbackInfo& info) {
  int k = whole(info.Env(), info[2], "k", 1);
  bool self = info[1].IsUndefined();
  return measure<Neighbours>(
      info,
      [x = features(info, 0), y = self ? Features{} : features(info, 1), k, self](Context& ctx) {
        return neighbours(ctx, x, self ? x : y, k, self);
      },
      [](Napi::Env env, const Neighbours& nearest) {
        Napi::Object value = Napi::Object::New(env);
        value.Set("squared", float_array(env, nearest.squared));
        value.Set("index", int_array(env, nearest.index));
        return value;
      });
}

Napi::Value ball_counts_metric(const Napi::CallbackInfo& info) {
  return measure<std::vector<int32_t>>(
      info,
      [x = features(info, 0), centres = features(info, 1), radii = doubles(info.Env(), info[2], "squaredRadii"),
       strict = info[3].ToBoolean().Value()](Context& ctx) { return ball_counts(ctx, x, centres, radii, strict); },
      int_array);
}

Napi::Value kernel_distances_metric(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  return measure<std::vector<double>>(
      info,
      [x = features(info, 0), y = features(info, 1), x_rows = ints(env, info[2], "xRows"), y_rows = ints(env, info[3], "yRows"),
       size = size_t(whole(env, info[4], "size", 2))](Context& ctx) { return kernel_distances(ctx, x, y, x_rows, y_rows, size); },
      float_array);
}

Napi::Value kmeans_metric(const Napi::CallbackInfo& info) {
  return measure<Clusters>(
      info,
      [x = features(info, 0), uniforms = doubles(info.Env(), info[1], "uniforms"),
       iterations = whole(info.Env(), info[2], "iterations", 1)](Context& ctx) { return kmeans(ctx, x, uniforms, iterations); },
      [](Napi::Env env, const Clusters& clusters) {
        Napi::Object value = Napi::Object::New(env);
        value.Set("centres", float_array(env, clusters.centres.data));
        value.Set("assignment", int_array(env, clusters.assignment));
        value.Set("inertia", clusters.inertia);
        value.Set("iterations", clusters.iterations);
        return value;
      });
}

using SharedNetwork = std::shared_ptr<const Network>;

Napi::Value create_network(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Napi::Object o = object(info, 0, "network");
  auto floats = [&](const char* name) { return values<float, Napi::Float32Array>(env, o.Get(name), name, napi_float32_array); };
  auto net = std::make_shared<Network>();
  net->height = whole(o, "height", 1, 4096), net->width = whole(o, "width", 1, 4096), net->channels = whole(o, "channels", 1, 1024);
  net->classes = whole(o, "classes", 0, 1 << 20);
  net->scale = floats("scale"), net->shift = floats("shift");
  std::vector<float> weights = floats("weights");
  net->weights.assign(weights.begin(), weights.end());
  double most = number(o, "most", 0, 1e30);
  net->most = most > 0 ? float(most) : INFINITY, net->pad = whole(o, "pad", 0, 1);
  std::vector<int32_t> layers = ints(env, o.Get("layers"), "layers");
  if (layers.size() % 4) raise(env, kArgument, "layers: expected kind, channels, stride and residual of each layer");
  for (size_t i = 0; i < layers.size(); i += 4) {
    if (layers[i] < 0 || layers[i] > 2 || layers[i + 1] < 1 || layers[i + 1] > 65536 || (layers[i + 2] != 1 && layers[i + 2] != 2))
      raise(env, kArgument, "layers: expected a kind of 0 to 2, 1 to 65536 channels and a stride of 1 or 2");
    net->layers.push_back({LayerKind(layers[i]), layers[i + 1], layers[i + 2], layers[i + 3] != 0});
  }
  return guarded(env, [&]() -> Napi::Value {
    check_network(*net);
    int64_t bytes = int64_t(net->weights.size() * sizeof(real));
    Napi::MemoryManagement::AdjustExternalMemory(env, bytes);
    return Napi::External<SharedNetwork>::New(env, new SharedNetwork(net), [bytes](Napi::BasicEnv env, SharedNetwork* owned) {
      Napi::MemoryManagement::AdjustExternalMemory(env, -bytes);
      delete owned;
    });
  });
}

Napi::Value run_network_metric(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsExternal()) raise(env, kArgument, "network: expected the result of createNetwork()");
  SharedNetwork net = *info[0].As<Napi::External<SharedNetwork>>().Data();
  auto pixels = values<uint8_t, Napi::Uint8Array>(env, info[1], "pixels", napi_uint8_array);
  int height = whole(env, info[2], "height", 1, 4096), width = whole(env, info[3], "width", 1, 4096);
  int channels = whole(env, info[4], "channels", 1, 1024);
  if (channels != 1 && channels != net->channels)
    raise(env, kShape, "channels: expected 1 or " + std::to_string(net->channels) + ", got " + std::to_string(channels));
  size_t image = size_t(height) * width * channels, count = pixels.size() / image;
  if (count < 1 || count > 65536 || count * image != pixels.size())
    raise(env, kShape, "pixels: expected 1 to 65536 images of " + std::to_string(image) + " bytes, got " + std::to_string(pixels.size()));
  struct Outputs {
    std::vector<float> features, logits;
  };
  return measure<Outputs>(
      info,
      [net, pixels = std::move(pixels), count, height, width, channels](Context& ctx) {
        Outputs out{std::vector<float>(count * net->features()), std::vector<float>(count * net->classes)};
        run_network(ctx, *net, {pixels.data(), int(count), height, width, channels}, out.features.data(), out.logits.data());
        return out;
      },
      [](Napi::Env env, const Outputs& out) {
        auto copied = [env](const std::vector<float>& from) {
          auto array = Napi::Float32Array::New(env, from.size());
          std::copy(from.begin(), from.end(), array.Data());
          return array;
        };
        Napi::Object value = Napi::Object::New(env);
        value.Set("features", copied(out.features));
        value.Set("logits", copied(out.logits));
        return value;
      });
}

Napi::Value logistic_metric(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  return measure<LogisticFit>(
      info,
      [x = features(info, 0), labels = ints(env, info[1], "labels"), classes = whole(env, info[2], "classes", 2, 65536),
       l2 = info[3].ToNumber().DoubleValue(), iterations = whole(env, info[4], "iterations", 1)](Context& ctx) {
        return logistic_regression(ctx, x, labels, classes, l2, iterations);
      },
      [](Napi::Env env, const LogisticFit& fit) {
        Napi::Object value = Napi::Object::New(env);
        value.Set("weights", float_array(env, fit.weights));
        value.Set("biases", float_array(env, fit.biases));
        value.Set("gradient", fit.gradient);
        value.Set("iterations", fit.iterations);
        return value;
      });
}

ClassifierShape classifier_shape(const Napi::CallbackInfo& info) {
  Napi::Object o = object(info, 0, "classifier");
  return {whole(o, "height", 4, 1024), whole(o, "width", 4, 1024), whole(o, "channels", 1, 16), whole(o, "classes", 2, 65536)};
}
std::vector<real> any_values(Napi::Env env, Napi::Value value, const char* name) {
  std::vector<double> numbers = any_reals(env, value, name);
  return std::vector<real>(numbers.begin(), numbers.end());
}
// The numbers in the addon's own precision.
Napi::Value own_array(Napi::Env env, const std::vector<real>& from) {
#ifdef PHOENIX_REF
  return float_array(env, from);
#else
  auto array = Napi::Float32Array::New(env, from.size());
  std::copy(from.begin(), from.end(), array.Data());
  return array;
#endif
}

Napi::Value classifier_init_metric(const Napi::CallbackInfo& info) {
  return own_array(info.Env(), classifier_init(classifier_shape(info), key(info.Env(), info[1])));
}

Napi::Value classifier_train_metric(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Napi::Object o = object(info, 1, "state");
  ClassifierState begun{any_values(env, o.Get("weights"), "weights"), any_values(env, o.Get("m"), "m"), any_values(env, o.Get("v"), "v"),
                        whole(o, "step", 0)};
  struct Outputs {
    ClassifierState state;
    std::vector<double> losses;
  };
  return measure<Outputs>(
      info,
      [shape = classifier_shape(info), begun = std::move(begun),
       pixels = values<uint8_t, Napi::Uint8Array>(env, info[2], "pixels", napi_uint8_array), labels = ints(env, info[3], "labels"),
       batch = whole(env, info[4], "batch", 1, 65536), rates = doubles(env, info[5], "rates")](Context& ctx) {
        Outputs out{begun, {}};
        out.losses = classifier_train(ctx, shape, out.state, pixels, labels, batch, rates);
        return out;
      },
      [](Napi::Env env, const Outputs& out) {
        Napi::Object value = Napi::Object::New(env);
        value.Set("weights", own_array(env, out.state.weights));
        value.Set("m", own_array(env, out.state.m));
        value.Set("v", own_array(env, out.state.v));
        value.Set("step", double(out.state.step));
        value.Set("losses", float_array(env, out.losses));
        return value;
      });
}

Napi::Value classifier_run_metric(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  return measure<Classified>(
      info,
      [shape = classifier_shape(info), weights = any_values(env, info[1], "weights"),
       pixels = values<uint8_t, Napi::Uint8Array>(env, info[2], "pixels", napi_uint8_array)](Context& ctx) {
        return classifier_run(ctx, shape, weights, pixels);
      },
      [](Napi::Env env, const Classified& out) {
        Napi::Object value = Napi::Object::New(env);
        value.Set("features", own_array(env, out.features));
        value.Set("logits", own_array(env, out.logits));
        return value;
      });
}

Napi::Value classifier_gradient_metric(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  struct Outputs {
    double loss;
    std::vector<real> gradient;
  };
  return measure<Outputs>(
      info,
      [shape = classifier_shape(info), weights = any_values(env, info[1], "weights"),
       pixels = values<uint8_t, Napi::Uint8Array>(env, info[2], "pixels", napi_uint8_array),
       labels = ints(env, info[3], "labels")](Context& ctx) {
        Outputs out;
        out.loss = classifier_gradient(ctx, shape, weights, pixels, labels, out.gradient);
        return out;
      },
      [](Napi::Env env, const Outputs& out) {
        Napi::Object value = Napi::Object::New(env);
        value.Set("loss", out.loss);
        value.Set("gradient", own_array(env, out.gradient));
        return value;
      });
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  isa();  // reads the environment: now, while no other thread may change it
  auto* data = new EnvData;
  env.SetInstanceData(data);
  env.AddCleanupHook([data] {
    for (Job* job : data->jobs) job->stop();
  });
  data->vector_class = Napi::Persistent(VectorHandle::define(env));
  data->images_class = Napi::Persistent(ImagesHandle::define(env));
  data->session_class = Napi::Persistent(SessionHandle::define(env));
  data->abort_class = Napi::Persistent(AbortHandle::define(env));
  exports.Set("info", Napi::Function::New<info_of>(env));
  exports.Set("setErrorClass", Napi::Function::New<set_error_class>(env));
  exports.Set("createVector", Napi::Function::New<create_vector>(env));
  exports.Set("createImages", Napi::Function::New<create<&EnvData::images_class>>(env));
  exports.Set("createSession", Napi::Function::New<create<&EnvData::session_class>>(env));
  exports.Set("createAbort", Napi::Function::New<create<&EnvData::abort_class>>(env));
  exports.Set("philox", Napi::Function::New<philox_words>(env));
  exports.Set("op", Napi::Function::New<op>(env));
  exports.Set("timeOp", Napi::Function::New<timed_op>(env));
  if (!device_is_host) return exports;  // metrics compute in the host's memory: phoenix-cpu has them
  exports.Set("moments", Napi::Function::New<moments_metric>(env));
  exports.Set("frechetDistance", Napi::Function::New<frechet_metric>(env));
  exports.Set("neighbours", Napi::Function::New<neighbours_metric>(env));
  exports.Set("ballCounts", Napi::Function::New<ball_counts_metric>(env));
  exports.Set("kernelDistances", Napi::Function::New<kernel_distances_metric>(env));
  exports.Set("kmeans", Napi::Function::New<kmeans_metric>(env));
  exports.Set("createNetwork", Napi::Function::New<create_network>(env));
  exports.Set("runNetwork", Napi::Function::New<run_network_metric>(env));
  exports.Set("logisticRegression", Napi::Function::New<logistic_metric>(env));
  exports.Set("classifierInit", Napi::Function::New<classifier_init_metric>(env));
  exports.Set("classifierTrain", Napi::Function::New<classifier_train_metric>(env));
  exports.Set("classifierRun", Napi::Function::New<classifier_run_metric>(env));
  exports.Set("classifierGradient", Napi::Function::New<classifier_gradient_metric>(env));
  return exports;
}

}  // namespace
}  // namespace phx

static Napi::Object Init(Napi::Env env, Napi::Object exports) { return phx::init(env, exports); }
NODE_API_MODULE(phoenix, Init)
