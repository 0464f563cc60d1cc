// The hyper-parameters of a training, in one table. The names are those of `hyperSchema` in src/ddpm/fit.ts, where meaning, unit and limits
// stand; they were checked there.
#pragma once
#include <bit>
#include <cstdint>
#include <vector>

namespace phx {

// How a training step gets a hyper-parameter. A recorded GPU step replays `captured` values as they were when it was recorded, so another
// value needs another recording. It reads the others from its record, which the host writes anew for each step.
enum class Reads { captured, record };

// X(type, member, name, how a step reads it). batch sizes every tensor. Of ema_decay a step also captures whether an EMA is kept: the
// pointer to the EMA is null without one.
#define PHX_HYPER(X)                                       \
  X(int, batch, "batch", Reads::captured)                  \
  X(double, lr, "lr", Reads::record)                       \
  X(double, warmup_steps, "warmupSteps", Reads::record)    \
  X(double, beta1, "beta1", Reads::record)                 \
  X(double, beta2, "beta2", Reads::record)                 \
  X(double, adam_eps, "adamEps", Reads::record)            \
  X(double, weight_decay, "weightDecay", Reads::record)    \
  X(double, clip, "clip", Reads::captured)                 \
  X(bool, flip, "flip", Reads::captured)                   \
  X(double, min_snr_gamma, "minSnrGamma", Reads::captured) \
  X(double, mu, "mu", Reads::captured)                     \
  X(double, ema_decay, "emaDecay", Reads::record)

struct Hyper {
#define PHX_MEMBER(type, member, name, reads) type member{};
  PHX_HYPER(PHX_MEMBER)
#undef PHX_MEMBER
};

// f(name, value, reads) of each. H: Hyper or const Hyper.
template <class H, class F>
void each_hyper(H& h, F f) {
#define PHX_VISIT(type, member, name, reads) f(name, h.member, reads);
  PHX_HYPER(PHX_VISIT)
#undef PHX_VISIT
}
#undef PHX_HYPER

// What tells one recording from another: the memory that it works on, then the captured values.
inline std::vector<uint64_t> captured(const Hyper& h, std::vector<uint64_t> memory) {
  each_hyper(h, [&](const char*, auto value, Reads reads) {
    if (reads == Reads::captured) memory.push_back(std::bit_cast<uint64_t>(double(value)));
  });
  return memory;
}

}  // namespace phx
