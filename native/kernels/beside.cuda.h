// Work that goes on beside the stream's own: gradients of weights, which nothing waits for until a step's end, beside those of inputs.
#pragma once

namespace phx {

// Work beside the stream's own, which goes on without it: what is started between `start` and the end of this goes to a second stream of
// the thread, and depends on all that was started before this was made. It reads and writes nothing that the stream's work after that point
// writes, until join_beside.
// Not wanted, or PHOENIX_CUDA_BESIDE=0: it goes to the stream as all else.
class Beside {
 public:
  explicit Beside(bool wanted);
  ~Beside();
  Beside(const Beside&) = delete;
  Beside& operator=(const Beside&) = delete;
  void start();
  // Whether this thread's work goes beside now.
  static bool on();

 private:
  const bool wanted_;
  bool started_ = false;
};
// What this thread starts from here on waits for all that went beside. A Beside that is wanted does so first.
void join_beside();

}  // namespace phx
