// Every op of the diffusion U-Net and its training, once: signature, shapes, formula, source. The table of contents of this folder.
//
// The linker chooses the implementations: cpu/ (fast, float) or ref/ (plain loops in double, the definition), with host/ where one text
// serves both; or cuda/. Each begins with a call of shapes.h.
// Arguments: context, outputs, saved (kept for backward), inputs, parameters, attributes. Sizes: N batch, H W side, C in-channels,
// K out-channels, T = H·W tokens, G groups. Activations (N,H,W,C), weights (K,R,S,C).
// Forward writes `=`. Backward writes parameter gradients `=` and input gradients as their Grad says. An empty Tensor is an argument left
// out.
// Ops neither allocate (but for Context::scratch) nor keep state; results do not depend on the number of threads.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/context.h"
#include "kernels/tensor.h"

namespace phx {

// Attributes that change from step to step are read in the device's memory (`const Draw*`, `const Adam*`, `const SamplerStep*`), so that a
// step can be recorded once and replayed with others (device.h, Program). On the CPU that is ordinary memory.

// The random words that an op draws: Philox's key, and the step that its counters name.
struct Draw {
  uint64_t key = 0;
  uint32_t step = 0;
};

// ---- convolution and matrices

// 3x3 convolution over x, zero padding of `pad` on the top and left and as much as needed below and right;
// upsample 2 reads x enlarged to twice its side by nearest neighbour (x[i/2][j/2]) without forming it.
struct Conv2d {
  int stride = 1;    // 1 or 2
  int pad = 1;       // 1; 0 with stride 2 = pad right and bottom by one (Ho et al. 2020; diffusers' downsample_padding 0)
  int upsample = 1;  // 1 or 2; 2 with stride 1 and pad 1 only
};
// A residual block's way around its convolutions where widths differ, a 1x1 convolution: [x0 | x1] wᵀ + b. Arguments as of linear_forward,
// rows are the pixels of y; without x0 there is none.
struct Shortcut {
  Tensor x0, x1, w, b;
};
// y[n,i,j,k] = b[k] + temb[n,k] + residual[n,i,j,k] + shortcut[n,i,j,k]
//              + Σ_rsc w[k,r,s,c] · x[n, (i·stride+r-pad)/upsample, (j·stride+s-pad)/upsample, c]
// x (N,H,W,C)  w (K,3,3,C)  b (K)  temb (N,K) or empty  residual like y or empty  y (N,P,Q,K), P = H·upsample/stride
void conv2d_forward(Context&, Tensor y, Tensor x, Tensor temb, Tensor residual, Shortcut, Tensor w, Tensor b, Conv2d);
// dtemb[n,k] = Σ_ij dy (or empty)   db = Σ_n Σ_ij dy   dw, db `=`
// The residual's gradient is dy itself; the shortcut's come by linear_backward.
void conv2d_backward(Context&, Grad dx, Tensor dtemb, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Conv2d);

// y = [x0 | x1] wᵀ + b + residual, row by row (a 1x1 convolution when rows are pixels)
// x0 (rows,C0)  x1 (rows,C1) or empty  w (K,C0+C1)  b (K) or empty  residual like y or empty  y (rows,K)
void linear_forward(Context&, Tensor y, Tensor x0, Tensor x1, Tensor residual, Tensor w, Tensor b);
void linear_backward(Context&, Grad dx0, Grad dx1, Tensor dw, Tensor db, Tensor dy, Tensor x0, Tensor x1, Tensor w);

// ---- normalisation and attention

// Dropout: element e (row-major index in the output (N,H,W,C)) is kept when its 16 random bits are >= round(p·65536), and is then
// divided by the share kept. The bits are half-word e%8 (low half of word 0 first) of philox(key, {e/8, layer, step, Purpose::dropout}).
struct Dropout {
  float p = 0;  // share dropped, 0 <= p < 1; 0 switches it off
  uint32_t layer = 0;
  const Draw* draw = nullptr;  // key and step; needed if p > 0
};
struct GroupNorm {
  int groups = 32;
  real eps = real(1e-6);
  bool silu = true;
  Dropout dropout;
};
// y = dropout(silu((x - mean)·rstd·w + b)), x = [x0 | x1] by channels, mean and rstd over (C/G, H, W).  Wu & He 2018, eq. 1
// x0 (N,H,W,C0)  x1 (N,H,W,C1) or empty  w,b (C)  y (N,H,W,C), C = C0+C1 a multiple of G  mean,rstd (N,G) saved
void group_norm_forward(Context&, Tensor y, Tensor mean, Tensor rstd, Tensor x0, Tensor x1, Tensor w, Tensor b, GroupNorm);
void group_norm_backward(Context&, Grad dx0, Grad dx1, Tensor dw, Tensor db, Tensor dy, Tensor mean, Tensor rstd, Tensor x0, Tensor x1,
                         Tensor w, Tensor b, GroupNorm);

// o = softmax(q kᵀ / √D) v for each image and head, D = C/heads.  Vaswani et al. 2017, eq. 1
// qkv (N,H,W,3C): q, k, v side by side, head h at channels [h·D, h·D+D) of each  o (N,H,W,C)
// lse (N,heads·T) saved: log Σ exp of each row of scores
void attention_forward(Context&, Tensor o, Tensor lse, Tensor qkv, int heads);
void attention_backward(Context&, Tensor dqkv, Tensor d_o, Tensor lse, Tensor qkv, Tensor o, int heads);

// ---- time and class embedding

// y[n] = [sin | cos](t_n · exp(-ln 1e4 · i / (dim/2 - freq_shift))), i < dim/2; flip puts cos first.  Vaswani et al. 2017, §3.5
// t (N)  y (N,dim), dim even
void time_embedding_forward(Context&, Tensor y, Tensor t, bool flip_sin_to_cos, int freq_shift);
// y = x + table[classes[n]]: (N,C)  table (classes,C)  classes (N), whole numbers stored as reals; y may be x
void class_embedding_forward(Context&, Tensor y, Tensor x, Tensor classes, Tensor table);
void class_embedding_backward(Context&, Tensor dtable, Tensor dy, Tensor classes);
// y = x · sigmoid(x)
void silu_forward(Context&, Tensor y, Tensor x);
void silu_backward(Context&, Grad dx, Tensor dy, Tensor x);

// ---- padding, for sides that do not halve evenly

// y (N,H',W',C) holds x (N,H,W,C) in its top left corner; what y has more is 0, what it has less is cut off
void pad_forward(Context&, Tensor y, Tensor x);
void pad_backward(Context&, Grad dx, Tensor dy);

// ---- diffusion

enum class Prediction { eps, x0, v };

// A batch out of a resident set of images: picks, flips, noises, and states the network's target.  Ho et al. 2020, eq. 4 and 14
// image i = u8/127.5 - 1, mirrored left-right where flip is set and the image's bit says so
// t uniform in [0, steps)   xt = √ᾱ_t x + √(1-ᾱ_t) z   target = z | x | √ᾱ_t z - √(1-ᾱ_t) x (v: Salimans & Ho 2022, app. D)
// weight: 1, or min-SNR-γ: min(snr,γ)/snr for eps, min(snr,γ) for x0, min(snr,γ)/(snr+1) for v, snr = ᾱ/(1-ᾱ).  Hang et al. 2023, eq. 9
// Random words for position n of the batch: {0, n, step, Purpose::timestep} gives t (word 0 · steps >> 32) and the flip (word 1 & 1);
// normals 4j..4j+3 (row-major over (H,W,C)) come from {j, n, step, Purpose::noise} by Box-Muller.
struct NoiseBatch {
  Prediction prediction = Prediction::eps;
  int steps = 1000;
  real min_snr_gamma = 0;  // 0 = off
  bool flip = false;
  const Draw* draw = nullptr;
};
// xt, target (N,H,W,C)  weight, t (N)  images (all, H·W·C) u8  indices (N)  alpha_bar (steps), all in the device's memory
void noise_batch(Context&, Tensor xt, Tensor target, Tensor weight, Tensor t, const uint8_t* images, const int32_t* indices,
                 const double* alpha_bar, NoiseBatch);

// loss[n] = weight[n] · mean over (H,W,C) of (y - target)²   loss, weight (N)
void mse_forward(Context&, Tensor loss, Tensor y, Tensor target, Tensor weight);
// gradient of the batch's mean loss: dy = 2·weight[n]·(y - target) / (N·H·W·C)
void mse_backward(Context&, Tensor dy, Tensor y, Tensor target, Tensor weight);

// One row of a sampler's table: x̂0 from the network's output m (eps: (x - sigma·m)/alpha, x0: m, v: alpha·x - sigma·m), clipped to
// [-1,1] if clip; then x ← cx·x + c0·x̂0 + c1·x̂0_prev + cz·z and x̂0_prev ← x̂0.  z from {j, image, step, Purpose::sampler}
struct SamplerStep {
  real alpha, sigma;  // √ᾱ_t, √(1-ᾱ_t)
  real cx, c0, c1, cz;
  Prediction prediction = Prediction::eps;
  bool clip = true;
  uint64_t key = 0;
  uint32_t step = 0, first_image = 0;
};
// x, x0_prev, m (N,H,W,C); x and x0_prev are updated in place
void sampler_step(Context&, Tensor x, Tensor x0_prev, Tensor m, const SamplerStep*);
// x[n] = standard normals from {j, first_image + n, 0, Purpose::prior}
void normal_fill(Context&, Tensor x, uint64_t key, uint32_t first_image);

// y = x in y's type; y += x. Contiguous tensors of one shape
void convert(Context&, Tensor y, Tensor x);
void add(Context&, Tensor y, Tensor x);

// ---- the parameter vector (count values each)

// Σ g² in a fixed order, accumulated in double
double sum_of_squares(Context&, const real* g, size_t count);
double dot(Context&, const real* a, const real* b, size_t count);
bool all_finite(Context&, const real* a, size_t count);
void axpy(Context&, real* y, const real* x, double a, size_t count);           // y += a·x
void scale(Context&, real* y, double a, size_t count);                         // y *= a
void subtract(Context&, real* y, const real* a, const real* b, size_t count);  // y = a - b
void round_bf16(Context&, real* y, const real* x, size_t count);               // y = x in bfloat16's precision, rounded to nearest even
void interpolate(Context&, real* y, const real* x, double a, size_t count);    // y += a·(x - y): an EMA step with decay 1 - a
// g += mu·(p - anchor): the gradient of FedProx's pull towards the global model.  Li et al. 2020, eq. 2
void proximal(Context&, real* g, const real* p, const real* anchor, double mu, size_t count);

// One optimizer step over the whole vector.  Kingma & Ba 2015, alg. 1; decoupled decay: Loshchilov & Hutter 2019, alg. 2
// g ← g·grad_scale;  m, v moments;  p ← p - lr·(m̂/(√v̂ + eps) + weight_decay·p);  ema ← ema + (1-ema_decay)·(p - ema) if ema is given
struct Adam {
  double lr, beta1, beta2, eps, weight_decay, grad_scale, ema_decay;
  int64_t step;        // of bias correction, from 1
  int64_t halted = 0;  // not 0: the step changes nothing
};
// rounded: the parameters anew in bf16, or empty
void adam_step(Context&, real* p, real* m, real* v, real* ema, Tensor rounded, const real* g, size_t count, const Adam*);

// ---- the steps of a recorded program; what they share lies in the device's memory

// Steps begun since the host set this to zeros, and whether one of them found what is not finite: it and those after it are not applied.
struct Progress {
  uint32_t begun = 0, halted = 0;
};
// Begins a step: now = records[progress.begun], of `bytes` bytes each, a multiple of 16; then progress.begun += 1.
void next_record(Context&, void* now, const void* records, size_t bytes, Progress*);

struct StepResult {
  double loss, grad_norm;
};
// Between backward and adam_step: results[progress.begun - 1] = {mean of loss, ‖g‖}, adam.grad_scale = min(1, clip/‖g‖), 1 with clip 0.
// If one of the two is not finite: progress.halted. adam.halted = progress.halted.
void finish_gradient(Context&, StepResult* results, Progress*, Adam*, Tensor loss, const real* g, size_t count, double clip);

// A server's step on the mean update Δ of a round.  Adam and Yogi: Reddi et al. 2021, alg. 2; momentum (FedAvgM): Hsu et al. 2019
// momentum: m ← β1·m + Δ, p ← p + lr·m   adam, yogi: m ← β1·m + (1-β1)·Δ, p ← p + lr·m/(√v + tau)
// adam: v ← β2·v + (1-β2)·Δ²   yogi: v ← v - (1-β2)·Δ²·sign(v - Δ²)   v may be null with momentum
enum class ServerKind { momentum, adam, yogi };
struct ServerStep {
  ServerKind kind;
  double lr, beta1, beta2, tau;
};
void server_step(Context&, real* p, const real* delta, real* m, real* v, size_t count, ServerStep);

// ---- updates as bytes, little-endian; these ops work in host memory, vectors included (device.h, OnHost). What comes in is not trusted:
// std::invalid_argument names what does not fit

// bfloat16, 2 bytes per value, rounded to nearest even
void encode_bf16(Context&, uint8_t* bytes, const real* x, size_t count);
void decode_bf16(Context&, real* x, const uint8_t* bytes, size_t count);
// Blocks of 1024 values (the last one shorter): float32 scale = max|x|/127, then a signed byte per value, x/scale rounded to nearest even.
constexpr size_t kInt8Block = 1024;
constexpr size_t int8_bytes(size_t count) { return count + 4 * ceil_div(count, kInt8Block); }
void encode_int8(Context&, uint8_t* bytes, const real* x, size_t count);
void decode_int8(Context&, real* x, const uint8_t* bytes, size_t count);
// The k values of largest magnitude, of equal ones those with lower indices; 1 <= k <= count.  u64 k, u8 coding, 7 zero bytes, k bfloat16
// values by index, then the indices, whichever is shorter: coding 0, the gaps between neighbours as LEB128; coding 1, a bitmap of
// ceil(count/8) bytes, bit i%8 of byte i/8. The number of bytes depends on the values, so this op allocates.
std::vector<uint8_t> encode_largest(Context&, const real* x, size_t count, size_t k);
// x = 0 but for the values sent
void decode_largest(Context&, real* x, size_t count, const uint8_t* bytes, size_t length);

// ---- several updates as rows of one block, in host memory as above

// y[j] = mean over the rows of rows[·,j] without the `trim` lowest and highest, 2·trim < n; at trim = (n-1)/2 the median.  Yin et al. 2018
void trimmed_mean(Context&, real* y, const real* rows, size_t n, size_t columns, size_t trim);
// squared[i·n+j] = ‖rows[i] - rows[j]‖², in double
void row_distances(Context&, double* squared, const real* rows, size_t n, size_t columns);

}  // namespace phx
