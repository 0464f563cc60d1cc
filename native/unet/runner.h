// Runs a model's passes on one device: plans their memory, and runs steps so that a GPU records and replays them.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "unet/loss.h"
#include "unet/model.h"

namespace phx {

// Thrown when a step or what was drawn is not finite.
struct NotFinite {
  std::string what;
};

constexpr size_t kRecordUnit = 16;
inline size_t whole_units(size_t bytes) { return round_up(bytes, kRecordUnit); }

// What one step reads: a header of type T, then positions, classes and times of its batch.
template <class T>
class Record {
 public:
  Record(void* at, int batch) : at_(static_cast<char*>(at)), batch_(size_t(batch)) {}
  static size_t bytes(int batch) {
    return whole_units(sizeof(T)) + whole_units(batch * sizeof(int32_t)) + 2 * whole_units(batch * sizeof(real));
  }
  T* header() const { return reinterpret_cast<T*>(at_); }
  int32_t* indices() const { return reinterpret_cast<int32_t*>(at_ + whole_units(sizeof(T))); }
  real* classes() const { return reinterpret_cast<real*>(at_ + whole_units(sizeof(T)) + whole_units(batch_ * sizeof(int32_t))); }
  real* times() const { return classes() + whole_units(batch_ * sizeof(real)) / sizeof(real); }

 private:
  char* at_;
  size_t batch_;
};

inline uint64_t bits(const void* pointer) { return uint64_t(reinterpret_cast<uintptr_t>(pointer)); }

class Runner {
 public:
  // precision: bf16 only where device_bf16() is not none. Parameters, their gradients and the optimizer are reals all the same.
  Runner(std::unique_ptr<const Model> model, int threads, Type precision);

  const Model& model() const { return *model_; }
  Context& context() { return context_; }
  size_t activation_bytes() const { return arena_.capacity() * sizeof(real); }
  size_t rounded_bytes() const { return rounded_memory_ ? rounded_memory_->count * sizeof(real) : 0; }
  Tensor rounded() const { return rounded_; }

  // ---- passes

  struct Pass {
    int batch;
    const real* weights;
    real* gradients = nullptr;   // null: forward only
    const Loss* loss = nullptr;  // null: none
    Dropout dropout = {};
    const std::atomic<bool>* stop = nullptr;
  };
  // `fill` writes the batch, `use` sees batch and outputs before their memory is released. What `use` is told of stays until the next
  // pass.
  using Fill = std::function<void(const Batch&)>;
  using Use = std::function<void(const Batch&, const Outputs&)>;
  void pass(const Pass&, const Fill& fill, const Use& use);
  // Makes the memory for such passes.
  void reserve(const Pass&);
  // Announces the weights of the coming passes: with bf16 activations a rounded copy is made.
  void use_weights(const real* weights);

  // ---- steps: passes that are the same but for their record

  // Room for `count` records of `bytes` each on the device.
  void reserve_records(size_t bytes, size_t count);
  // The records of the coming steps, one after the other.
  void load(const std::vector<char>& records);
  // The record of the running step, once `next` has run; or the only one, put there at once.
  char* now() const { return now_.data(); }
  char* put_now(const std::vector<char>& record);
  // Begins a step with the next record; part of its work.
  void next(size_t bytes);
  // `captured` is all that the work depends on besides its record; the same of other memory counts as another step.
  void run_step(std::vector<uint64_t> captured, const std::function<void()>& work);
  Progress* progress() const { return reinterpret_cast<Progress*>(progress_.data()); }
  // Whether the host can see already that a step was not finite. On a GPU it learns of it later.
  bool halted() const;
  // Waits for the device if the host is `ahead` of it; says whether all steps so far are done.
  bool caught_up(bool ahead);
  // Where a recorded step finds these values in every call: on a GPU a copy at one place, made now; else where they are.
  const real* in_place(const Buffer& values, BufferPtr& copy);
  // Memory that steps use and that may move: a recorded step is recorded anew when it has.
  Block results, drawn;

 private:
  struct BatchMemory;
  void pass_on(Arena& arena, const Pass&, const Fill& fill, const Use& use);

  std::unique_ptr<const Model> model_;
  Context context_;
  Arena arena_;
  std::map<std::tuple<int, bool, bool>, size_t> planned_;  // (batch, training, loss) → reals
  BufferPtr rounded_memory_;
  Tensor rounded_;  // the weights in use in bf16, or empty

  Block records_;   // of the coming steps
  Block now_;       // the record of the running step
  Block progress_;  // a Progress: how many steps have begun, and whether one was not finite
  struct Recorded {
    std::vector<uint64_t> places;
    std::unique_ptr<Program> program;
  };
  std::map<std::vector<uint64_t>, Recorded> programs_;
};

}  // namespace phx
