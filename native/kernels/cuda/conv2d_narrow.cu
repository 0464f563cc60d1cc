// 3x3 convolutions between a narrow tensor, of up to kNarrowMax channels (an image's), and a wide one in bf16, stride 1 and padding 1,
// without tiles that would be mostly empty: to the wide one, from it, and the weights' gradient of either. The inputs' gradient of the one
// is the other with its taps turned round.
#include "kernels/cuda/conv2d.cuh"

namespace phx {

extern __shared__ __align__(16) unsigned char narrow_memory[];

// The narrow tensor's channels of a block's pixels, and of a line and a pixel before and behind them, in shared memory. By all threads.
struct NarrowTile {
  int begin, end, margin;
  float4* pixels;

  __device__ NarrowTile(const View& narrow, unsigned char* memory) {
    int rows = narrow.n * narrow.h * narrow.w;
    begin = int(blockIdx.x) * kNarrowRange, end = min(rows, begin + kNarrowRange), margin = narrow.w + 1;
    pixels = reinterpret_cast<float4*>(memory);
    for (int e = threadIdx.x; e < (end - begin + 2 * margin) * kNarrowMax; e += kThreads) {
      int p = begin - margin + e / kNarrowMax, c = e % kNarrowMax;
      reinterpret_cast<float*>(pixels)[e] = c < narrow.c && p >= 0 && p < rows ? phx::at(narrow, p, c) : 0;
    }
    __syncthreads();
  }
  __device__ float4 at(int p) const { return pixels[p - begin + margin]; }
};
// The nine around a pixel, itself among them: which are in the image, and how far away.
struct Neighbours {
  int i, j, h, w;
  __device__ Neighbours(int p, int h, int w) : i(p / w % h), j(p % w), h(h), w(w) {}
  // Of the pixel so many further on.
  __device__ void advance(int pixels) {
    for (j += pixels; j >= w; j -= w)
      if (++i == h) i = 0;
  }
  __device__ bool inside(int t) const { return unsigned(i + t / 3 - 1) < unsigned(h) && unsigned(j + t % 3 - 1) < unsigned(w); }
  __device__ int distance(int t) const { return (t / 3 - 1) * w + t % 3 - 1; }
};

// The row of pixel p's neighbour at tap (r,s) of an image's h x w, or -1 outside.
__device__ inline int neighbour(int p, int h, int w, int r, int s) {
  int i = p / w % h + r - 1, j = p % w + s - 1;
  return i < 0 || j < 0 || i >= h || j >= w ? -1 : p + (r - 1) * w + s - 1;
}
// w[k][t][c] with the narrow tensor's channels first: place (t, narrow, wide) of shared memory.
__device__ inline float narrow_weight(const ConvNarrow& a, int t, int narrow, int wide) {
  int tap = a.turned ? 8 - t : t;
  return a.w_by_wide ? value(a.w, (size_t(wide) * 9 + tap) * a.narrow.c + narrow)
                     : value(a.w, (size_t(narrow) * 9 + tap) * a.wide.c + wide);
}

// wide(p, ·) = Σ narrow(p at t, c) w(t, c, ·) + b: a thread has 8 channels of 4 pixels at a time. The weights' first four of each 8
// channels lie before all second fours, so that neighbouring threads read neighbouring words.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_to_wide_kernel(const __grid_constant__ ConvNarrow a) {
  begin_kernel();
  constexpr int kPixels = 4;
  int narrow = a.narrow.c, wide = a.wide.c, pieces = wide / 8, lanes = kThreads / pieces;
  auto* weights = reinterpret_cast<float*>(narrow_memory + narrow_tile_bytes(a.narrow.w));
  for (int e = threadIdx.x; e < 9 * narrow * wide; e += kThreads) {
    int channel = e % wide, half = channel % 8 / 4;
    weights[e - channel + half * (wide / 2) + channel / 8 * 4 + channel % 4] =
        narrow_weight(a, e / wide / narrow, e / wide % narrow, channel);
  }
  NarrowTile tile(a.narrow, narrow_memory);
  int piece = int(threadIdx.x) % pieces, column = piece * 8, lane = int(threadIdx.x) / pieces;
  if (lane >= lanes) return;
  for (int first = tile.begin + lane * kPixels; first < tile.end; first += lanes * kPixels) {
    Eight sums[kPixels];
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float b = a.b.data ? a.b.data[column + i] : 0;
#pragma unroll
      for (auto& sum : sums) sum.x[i] = b;
    }
    Neighbours near[kPixels] = {
        {first, a.wide.h, a.wide.w}, {first, a.wide.h, a.wide.w}, {first, a.wide.h, a.wide.w}, {first, a.wide.h, a.wide.w}};
#pragma unroll
    for (int p = 1; p < kPixels; p++) near[p].advance(p);
    for (int t = 0; t < 9; t++) {
      float x[kPixels][kNarrowMax];
#pragma unroll
      for (int p = 0; p < kPixels; p++) {
        float4 from = first + p < tile.end && near[p].inside(t) ? tile.at(first + p + near[p].distance(t)) : float4{};
        x[p][0] = from.x, x[p][1] = from.y, x[p][2] = from.z, x[p][3] = from.w;
      }
#pragma unroll
      for (int c = 0; c < kNarrowMax; c++) {
        if (c >= narrow) break;
        const float4* w = reinterpret_cast<const float4*>(weights + (t * narrow + c) * wide);
        float4 w0 = w[piece], w1 = w[pieces + piece];
        const float eight[8] = {w0.x, w0.y, w0.z, w0.w, w1.x, w1.y, w1.z, w1.w};
#pragma unroll
        for (int p = 0; p < kPixels; p++)
#pragma unroll
          for (int i = 0; i < 8; i++) sums[p].x[i] += x[p][c] * eight[i];
      }
    }
#pragma unroll
    for (int p = 0; p < kPixels; p++) {
      if (first + p >= tile.end) continue;
      uint4* to = eight_at(a.wide, first + p, column);
      if (a.accumulate) {
        Eight former = unpacked(*to);
#pragma unroll
        for (int i = 0; i < 8; i++) sums[p].x[i] += former.x[i];
      }
      *to = packed(sums[p]);
    }
  }
}

// narrow(p, k) = Σ wide(p at t, ·) w(t, k, ·) + b: 16 lanes share 4 pixels, a lane every 16th piece of 8 channels.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_from_wide_kernel(const __grid_constant__ ConvNarrow a) {
  begin_kernel();
  constexpr int kPixels = 4, kTeam = 16;
  int narrow = a.narrow.c, wide = a.wide.c, rows = a.narrow.n * a.narrow.h * a.narrow.w;
  auto* narrow_weights = reinterpret_cast<float*>(narrow_memory);
  for (int e = threadIdx.x; e < 9 * narrow * wide; e += kThreads)
    narrow_weights[e] = narrow_weight(a, e / wide / narrow, e / wide % narrow, e % wide);
  __syncthreads();
  int member = threadIdx.x % kTeam, team = threadIdx.x / kTeam, end = min(rows, int(blockIdx.x + 1) * kNarrowRange);
  // All teams go round equally often, for the shuffles' sake.
  for (int base = blockIdx.x * kNarrowRange; base < end; base += kThreads / kTeam * kPixels) {
    int first = base + team * kPixels;
    float sums[kPixels][kNarrowMax] = {};
    for (int t = 0; t < 9; t++) {
      int from[kPixels];
#pragma unroll
      for (int p = 0; p < kPixels; p++) from[p] = first + p < end ? neighbour(first + p, a.narrow.h, a.narrow.w, t / 3, t % 3) : -1;
      for (int column = member * 8; column < wide; column += kTeam * 8) {
        Eight x[kPixels] = {};
#pragma unroll
        for (int p = 0; p < kPixels; p++)
          if (from[p] >= 0) x[p] = unpacked(*eight_at(a.wide, from[p], column));
#pragma unroll
        for (int k = 0; k < kNarrowMax; k++) {
          if (k >= narrow) break;
          const float4* w = reinterpret_cast<const float4*>(narrow_weights + (t * narrow + k) * wide + column);
          float4 w0 = w[0], w1 = w[1];
          const float weights[8] = {w0.x, w0.y, w0.z, w0.w, w1.x, w1.y, w1.z, w1.w};
#pragma unroll
          for (int p = 0; p < kPixels; p++)
#pragma unroll
            for (int i = 0; i < 8; i++) sums[p][k] += x[p].x[i] * weights[i];
        }
      }
    }
#pragma unroll
    for (int p = 0; p < kPixels; p++)
#pragma unroll
      for (int k = 0; k < kNarrowMax; k++) {
        if (k >= narrow) break;
        float sum = sums[p][k];
#pragma unroll
        for (int half = kTeam / 2; half > 0; half /= 2) sum += __shfl_xor_sync(~0u, sum, half);
        if (member == 0 && first + p < end) {
          if (a.b.data) sum += a.b.data[k];
          put(a.narrow, first + p, k, a.accumulate ? at(a.narrow, first + p, k) + sum : sum);
        }
      }
  }
}

// Σ over a range of pixels of wide(p, ·) narrow(p at t, ·), and of dy, which is one of the two: a thread has two channels of the wide and
// all of the rest, for every `lines`-th pixel.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_narrow_weights_kernel(const __grid_constant__ ConvNarrowWeights a) {
  begin_kernel();
  NarrowTile tile(a.narrow, narrow_memory);
  auto* parts = reinterpret_cast<float4*>(narrow_memory + narrow_tile_bytes(a.narrow.w));
  int narrow = a.narrow.c, pairs = min(a.wide.c / 2, kThreads), lines = kThreads / pairs, line = int(threadIdx.x) / pairs;
  int pair = int(blockIdx.y) * pairs + int(threadIdx.x) % pairs;
  bool works = line < lines && pair * 2 < a.wide.c;
  float sums[9][kNarrowMax][2] = {}, of_narrow[kNarrowMax] = {}, of_wide[2] = {};
  Neighbours near(tile.begin + line, a.wide.h, a.wide.w);
  for (int p = tile.begin + line; works && p < tile.end; p += lines, near.advance(lines)) {
    uint32_t two = *reinterpret_cast<const uint32_t*>(a.wide.bf16() + size_t(p) * a.wide.ld + pair * 2);
    float x0 = __uint_as_float(two << 16), x1 = __uint_as_float(two & 0xFFFF0000u);
    of_wide[0] += x0, of_wide[1] += x1;
    float4 own = tile.at(p);
    of_narrow[0] += own.x, of_narrow[1] += own.y, of_narrow[2] += own.z, of_narrow[3] += own.w;
#pragma unroll
    for (int t = 0; t < 9; t++) {
      float4 from = near.inside(t) ? tile.at(p + near.distance(t)) : float4{};
      const float x[kNarrowMax] = {from.x, from.y, from.z, from.w};
#pragma unroll
      for (int c = 0; c < kNarrowMax; c++) {
        sums[t][c][0] += x0 * x[c];
        sums[t][c][1] += x1 * x[c];
      }
    }
  }
  // The sums over lines, eight at a time, are the first line's.
  auto add_lines = [&](float(&of)[8]) {
    __syncthreads();
    parts[2 * threadIdx.x] = {of[0], of[1], of[2], of[3]};
    parts[2 * threadIdx.x + 1] = {of[4], of[5], of[6], of[7]};
    __syncthreads();
    for (int l = 1; l < lines && line == 0; l++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float4 more = parts[2 * (l * pairs + int(threadIdx.x)) + half];
        of[4 * half] += more.x, of[4 * half + 1] += more.y, of[4 * half + 2] += more.z, of[4 * half + 3] += more.w;
      }
    return works && line == 0;
  };
#pragma unroll
  for (int t = 0; t < 9; t++) {
    float of[8];
#pragma unroll
    for (int c = 0; c < kNarrowMax; c++) of[2 * c] = sums[t][c][0], of[2 * c + 1] = sums[t][c][1];
    if (!add_lines(of)) continue;
#pragma unroll
    for (int c = 0; c < kNarrowMax; c++) {
      if (c >= narrow) break;
#pragma unroll
      for (int i = 0; i < 2; i++) {
        int wide = pair * 2 + i, tap = a.turned ? 8 - t : t;
        size_t place = a.turned ? (size_t(c) * 9 + tap) * a.wide.c + wide : (size_t(wide) * 9 + tap) * narrow + c;
        a.parts.weights[blockIdx.x * size_t(a.wide.c) * 9 * narrow + place] = of[2 * c + i];
      }
    }
  }
  float of[8] = {of_narrow[0], of_narrow[1], of_narrow[2], of_narrow[3], of_wide[0], of_wide[1]};
  if (!add_lines(of)) return;
  if (!a.turned) {
    for (int i = 0; i < 2; i++) a.parts.biases[size_t(blockIdx.x) * a.wide.c + pair * 2 + i] = of[4 + i];
  } else if (pair == 0) {
#pragma unroll
    for (int c = 0; c < kNarrowMax; c++)
      if (c < narrow) a.parts.biases[size_t(blockIdx.x) * narrow + c] = of[c];
  }
}

}  // namespace phx
