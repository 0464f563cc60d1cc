// What every part of the binding is made of: errors, locks, jobs on threads of their own, and the reading of arguments.
//
// Handles (Vector, Images, Session) own native memory and are known to the garbage collector by their size. What a running job uses is
// locked: many readers or one writer a vector, one job a Session or set of images; a clash is ERR_PHOENIX_BUSY. Locks are taken and
// released on the JS thread only. A handle's dispose() lets go of its memory; a job that still uses it keeps it until it ends.
#pragma once
#include <napi.h>

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace phx {

constexpr const char* kArgument = "ERR_PHOENIX_ARGUMENT";
constexpr const char* kShape = "ERR_PHOENIX_SHAPE";
constexpr const char* kDisposed = "ERR_PHOENIX_DISPOSED";
constexpr const char* kBusy = "ERR_PHOENIX_BUSY";
constexpr const char* kAborted = "ERR_PHOENIX_ABORTED";  // session.ts puts the signal's own reason in its place

constexpr int kMostThreads = 1024;  // that anything may be given

class Job;

// What one JS environment (the main thread, a worker) has of the addon.
struct EnvData {
  Napi::FunctionReference error_class;
  Napi::FunctionReference vector_class, images_class, session_class, abort_class;
  std::set<Job*> jobs;
};
EnvData& data_of(Napi::Env env);

// ---- errors

[[noreturn]] void raise(Napi::Env env, const char* code, const std::string& message);
// The PhoenixError of a C++ exception.
Napi::Value error_of(Napi::Env env, std::exception_ptr error);

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

Napi::Object object(Napi::Env env, Napi::Value value, const char* name);
Napi::Object object(const Napi::CallbackInfo& info, size_t i, const char* name);
double number(Napi::Env env, Napi::Value value, const char* name, double least = -INFINITY, double most = INFINITY);
double number(Napi::Object from, const char* name, double least = -INFINITY, double most = INFINITY);
int whole(Napi::Env env, Napi::Value value, const char* name, int least, int most = std::numeric_limits<int>::max());
int whole(Napi::Object from, const char* name, int least, int most = std::numeric_limits<int>::max());
bool flag(Napi::Object from, const char* name);
uint64_t key(Napi::Env env, Napi::Value value);

// Copies: the thread that reads them must not see a transferred buffer.
template <class T, class Array>
std::vector<T> values(Napi::Env env, Napi::Value value, const char* name, napi_typedarray_type type) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type)
    raise(env, kArgument, std::string(name) + ": expected a typed array of another kind");
  Array array = value.As<Array>();
  return std::vector<T>(array.Data(), array.Data() + array.ElementLength());
}
// Of an undefined value none.
std::vector<int32_t> ints(Napi::Env env, Napi::Value value, const char* name);
std::vector<double> doubles(Napi::Env env, Napi::Value value, const char* name);

// ---- values

// A typed array of the values of a block made by a job: it takes the block over, or a copy where the runtime allows no ArrayBuffer of
// foreign memory (Electron, and others with pointers of V8's own).
template <class Array, class T>
Napi::Value adopt(Napi::Env env, std::shared_ptr<std::vector<T>> block, size_t length) {
  size_t bytes = block->size() * sizeof(T);
  auto owner = std::make_unique<std::shared_ptr<std::vector<T>>>(block);
  napi_value adopted = nullptr;
  napi_status status = napi_create_external_arraybuffer(
      env, block->data(), bytes,
      [](napi_env env, void*, void* data) {
        auto* owner = static_cast<std::shared_ptr<std::vector<T>>*>(data);
        Napi::MemoryManagement::AdjustExternalMemory(Napi::Env(env), -int64_t((*owner)->size() * sizeof(T)));
        delete owner;
      },
      owner.get(), &adopted);
  if (status == napi_ok) {
    owner.release();  // the buffer's from here on
    Napi::MemoryManagement::AdjustExternalMemory(env, int64_t(bytes));
    return Array::New(env, length, Napi::ArrayBuffer(env, adopted), 0);
  }
  if (status != napi_no_external_buffers_allowed) throw Napi::Error::New(env);
  auto copy = Napi::ArrayBuffer::New(env, bytes);
  if (bytes) std::memcpy(copy.Data(), block->data(), bytes);
  return Array::New(env, length, copy, 0);
}

// Threads that release blocks. The end of the process waits for them: the driver's library, which they call, ends after this object,
// since it was loaded before the first block was.
class Releases {
 public:
  static Releases& get() {
    static Releases releases;
    return releases;
  }
  ~Releases();
  void begin();
  void end();

 private:
  std::mutex mutex_;
  std::condition_variable idle_;
  int running_ = 0;
};

// Releases a block, on a thread of its own if it is large: the system takes back 143 MB in about 10 ms.
template <class T>
void release_block(std::shared_ptr<T> block, size_t bytes) {
  if (bytes < size_t(64) << 20) return;
  Releases& releases = Releases::get();
  releases.begin();
  try {
    std::thread([block = std::move(block), &releases]() mutable {
      block.reset();
      releases.end();
    }).detach();
  } catch (const std::system_error&) {
    releases.end();  // no thread: the block went with the closure
  }
}

Napi::Value float_array(Napi::Env env, const std::vector<double>& from);

}  // namespace phx
