// The pool behind parallel_for: one per process, grown to the largest number of threads ever asked for, never taken down (the addon stays
// loaded, see CMakeLists.txt). A caller puts its job on a list, works on it itself, and waits only for the workers that joined it: it makes
// progress whatever the others do, so any number of callers may share the pool. Threads that run out of work look around for about a tenth
// of a millisecond (longer than the distance between two ops of a step) and then sleep: on two cores 3 % of a denoising step ahead of a
// quarter of that, and the same where eight Sessions share them.
#include "kernels/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace phx {
namespace {

constexpr int kMaxWorkers = 255;
constexpr int kSpins = 4000;  // of about 15-40 ns

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// One call of parallel_for; lives on the caller's stack. `users` counts the workers inside and changes under the pool's lock only.
struct Job {
  const std::function<void(size_t, size_t)>* body;
  size_t count, parts;
  std::atomic<size_t> next{0};
  std::atomic<int> users{0};
  std::mutex failing;
  size_t failed_part = SIZE_MAX;
  std::exception_ptr failure;
  Job* following = nullptr;

  bool open() const { return next.load(std::memory_order_relaxed) < parts; }

  void work() {
    for (size_t part; (part = next.fetch_add(1, std::memory_order_relaxed)) < parts;) {
      try {
        (*body)(count * part / parts, count * (part + 1) / parts);
      } catch (...) {
        std::lock_guard<std::mutex> lock(failing);
        if (part < failed_part) failed_part = part, failure = std::current_exception();
      }
    }
  }
};

class Pool {
 public:
  void run(Job& job) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (workers_ < kMaxWorkers && size_t(workers_) + 1 < job.parts) {
        try {
          std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {
          break;  // the caller and the workers there are do it all
        }
        workers_++;
      }
      Job** end = &jobs_;
      while (*end) end = &(*end)->following;
      *end = &job;
      posted_.fetch_add(1, std::memory_order_release);
    }
    if (sleepers_.load() > 0) wake_.notify_all();
    job.work();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      Job** at = &jobs_;
      while (*at != &job) at = &(*at)->following;
      *at = job.following;
    }
    for (int i = 0; i < kSpins && job.users.load(std::memory_order_acquire); i++) pause();
    if (job.users.load(std::memory_order_acquire)) {
      std::unique_lock<std::mutex> lock(mutex_);
      done_.wait(lock, [&] { return !job.users.load(std::memory_order_acquire); });
    }
  }

 private:
  Job* open_job() const {
    for (Job* job = jobs_; job; job = job->following)
      if (job->open()) return job;
    return nullptr;
  }

  void serve() {
    uint64_t seen = 0;
    for (;;) {
      bool fresh = false;
      for (int i = 0; i < kSpins && !(fresh = posted_.load(std::memory_order_acquire) != seen); i++) pause();
      std::unique_lock<std::mutex> lock(mutex_);
      seen = posted_.load(std::memory_order_relaxed);
      Job* job = open_job();
      if (!job) {
        if (fresh) continue;
        sleepers_++;
        wake_.wait(lock, [&] { return (job = open_job()) != nullptr; });
        sleepers_--;
      }
      job->users.fetch_add(1, std::memory_order_relaxed);
      lock.unlock();
      job->work();
      lock.lock();
      // The last touch of the job: its caller may leave as soon as it sees zero.
      if (job->users.fetch_sub(1, std::memory_order_release) == 1) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Job* jobs_ = nullptr;
  int workers_ = 0;
  std::atomic<int> sleepers_{0};
  std::atomic<uint64_t> posted_{0};
};

std::atomic<Pool*> pool_{nullptr};

Pool& pool() {
  static const bool once = [] {
    pool_ = new Pool;
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] { pool_ = new Pool; });  // a forked child has none of its parent's threads
#endif
    return true;
  }();
  (void)once;
  return *pool_;
}

}  // namespace

void parallel_for(Context& ctx, size_t count, const std::function<void(size_t begin, size_t end)>& body) {
  size_t parts = std::min(count, size_t(ctx.threads()));
  if (parts <= 1) {
    if (count) body(0, count);
    return;
  }
  Job job;
  job.body = &body, job.count = count, job.parts = parts;
  pool().run(job);
  if (job.failure) std::rethrow_exception(job.failure);
}

}  // namespace phx
