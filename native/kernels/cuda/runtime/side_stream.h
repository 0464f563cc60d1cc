// A second CUDA stream for gradients of weights, which nothing waits for until the end of a step, while gradients of inputs go on.
#pragma once

namespace phx {

// A branch of work. What is started between `start` and the end of this object goes to the thread's side stream. It depends on all that was
// started before this object was made. What the main stream does after that point must not write what the branch reads or writes, until
// join_side_stream.
// If it is not wanted, or with PHOENIX_CUDA_BESIDE=0, work stays on the main stream.
class SideStream {
 public:
  explicit SideStream(bool wanted);
  ~SideStream();
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;
  void start();
  // Whether this thread's work goes to the side stream now.
  static bool active();

 private:
  const bool wanted_;
  bool started_ = false;
};
// What this thread starts from here on waits for the side stream. A wanted SideStream does so first.
void join_side_stream();

}  // namespace phx
