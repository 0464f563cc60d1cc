// sm_80: cp.async, ldmatrix, stmatrix, mma.m16n8k16 (PTX ISA 9.0, 9.7.9.25 and 9.7.14).
#include <cuda_fp16.h>
#include <cstring>
#include "async.h"

namespace phoenix::simt {

// ---- cp.async: the bytes move when they are waited for; until then the destination holds NaN

struct Copy {
  unsigned char* to;
  const unsigned char* from;
  uint32_t read_bytes, bytes;
  int group;
  Loc loc;
};
struct Queue {
  std::vector<Copy> copies;
  int group = 0;  // the open one
};
static std::vector<Queue> queues;  // by thread

void tensor_block_begin() { queues.assign(grid.all(), {}); }

void cp_async(void* shared, const void* global, uint32_t read_bytes, uint32_t bytes, Loc loc) {
  shared_check(shared, bytes, bytes, "cp.async", loc);
  if (read_bytes && uintptr_t(global) % bytes) fatal("cp.async: global address not %u-byte aligned, at %s", bytes, to_string(loc).c_str());
  if (read_bytes && !check_access(global, read_bytes, Access::Read, "cp.async", loc)) read_bytes = 0;
  check_access(shared, bytes, Access::Write, "cp.async", loc);
  mark_pending(shared, bytes, true);
  memset(shared, 0xFF, bytes);
  Queue& q = queues[self->index];
  q.copies.push_back({static_cast<unsigned char*>(shared), static_cast<const unsigned char*>(global), read_bytes, bytes, q.group, loc});
}
void cp_async_commit() { queues[self->index].group++; }
void cp_async_wait(int pending_groups) {
  Queue& q = queues[self->index];
  size_t done = 0;
  for (; done < q.copies.size() && q.copies[done].group < q.group - pending_groups; ++done) {
    const Copy& c = q.copies[done];
    if (c.read_bytes) memcpy(c.to, c.from, c.read_bytes);
    memset(c.to + c.read_bytes, 0, c.bytes - c.read_bytes);
    mark_pending(c.to, c.bytes, false);
    check_access(c.to, c.bytes, Access::Write, "cp.async", c.loc);
  }
  q.copies.erase(q.copies.begin(), q.copies.begin() + long(done));
}
void tensor_thread_end() {
  if (!queues[self->index].copies.empty()) report("thread exits with cp.async copies not waited for");
}

// ---- ldmatrix, stmatrix: 8x8 matrices of 16-bit elements; lane l holds elements (l/4, 2(l%4)) and the next one

struct MatrixFrame {
  uint32_t* registers;
  unsigned char* row;
  int matrices;
  bool transposed;
};
static MatrixFrame& matrix_frame(void** frames, int lane) { return *static_cast<MatrixFrame*>(frames[lane]); }

void ldmatrix(uint32_t* registers, const void* row, int matrices, bool transposed, Loc loc) {
  MatrixFrame frame{registers, static_cast<unsigned char*>(const_cast<void*>(row)), matrices, transposed};
  if (int(self->lane) < matrices * 8) {
    shared_check(row, 16, 16, "ldmatrix", loc);
    check_access(row, 16, Access::Read, "ldmatrix", loc);
  }
  auto load = [](void** frames, uint32_t) {
    const MatrixFrame first = matrix_frame(frames, 0);
    for (int i = 0; i < first.matrices; ++i) {
      uint16_t m[8][8];
      for (int r = 0; r < 8; ++r) memcpy(m[r], matrix_frame(frames, i * 8 + r).row, 16);
      for (int lane = 0; lane < 32; ++lane) {
        const int a = lane / 4, b = lane % 4 * 2;
        const uint32_t low = first.transposed ? m[b][a] : m[a][b], high = first.transposed ? m[b + 1][a] : m[a][b + 1];
        matrix_frame(frames, lane).registers[i] = low | high << 16;
      }
    }
  };
  warp_collective("ldmatrix", ~0u, &frame, load, loc);
}
void stmatrix(const uint32_t* registers, void* row, int matrices, bool transposed, Loc loc) {
  MatrixFrame frame{const_cast<uint32_t*>(registers), static_cast<unsigned char*>(row), matrices, transposed};
  if (int(self->lane) < matrices * 8) {
    shared_check(row, 16, 16, "stmatrix", loc);
    check_access(row, 16, Access::Write, "stmatrix", loc);
  }
  auto store = [](void** frames, uint32_t) {
    const MatrixFrame first = matrix_frame(frames, 0);
    for (int i = 0; i < first.matrices; ++i) {
      uint16_t m[8][8];
      for (int lane = 0; lane < 32; ++lane) {
        const int a = lane / 4, b = lane % 4 * 2;
        const uint32_t value = matrix_frame(frames, lane).registers[i];
        (first.transposed ? m[b][a] : m[a][b]) = uint16_t(value);
        (first.transposed ? m[b + 1][a] : m[a][b + 1]) = uint16_t(value >> 16);
      }
      for (int r = 0; r < 8; ++r) memcpy(matrix_frame(frames, i * 8 + r).row, m[r], 16);
    }
  };
  warp_collective("stmatrix", ~0u, &frame, store, loc);
}

// ---- mma: D (16x8) = A (16x16) B (16x8) + C, in fp32, k ascending

float half_to_float(uint32_t bits, Half type) {
  if (type == Half::F16) {
    __half_raw raw;
    raw.x = uint16_t(bits);
    return __half2float(__half(raw));
  }
  bits <<= 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
struct MmaFrame {
  float* d;
  const uint32_t *a, *b;
  const float* c;
  Half type;
};
void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b, const float* c, Half type, Loc loc) {
  MmaFrame frame{d, a, b, c, type};
  auto multiply = [](void** frames, uint32_t) {
    float A[16][16], B[16][8], D[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const auto& f = *static_cast<MmaFrame*>(frames[lane]);
      const int g = lane / 4, q = lane % 4 * 2;
      for (int i = 0; i < 4; ++i) {  // a0 (g,q)  a1 (g+8,q)  a2 (g,q+8)  a3 (g+8,q+8)
        const int row = g + i % 2 * 8, k = q + i / 2 * 8;
        A[row][k] = half_to_float(f.a[i] & 0xFFFF, f.type);
        A[row][k + 1] = half_to_float(f.a[i] >> 16, f.type);
      }
      for (int i = 0; i < 2; ++i) {
        B[q + i * 8][g] = half_to_float(f.b[i] & 0xFFFF, f.type);
        B[q + i * 8 + 1][g] = half_to_float(f.b[i] >> 16, f.type);
      }
      for (int i = 0; i < 4; ++i) D[g + i / 2 * 8][q + i % 2] = f.c[i];
    }
    for (int m = 0; m < 16; ++m)
      for (int k = 0; k < 16; ++k)
        for (int n = 0; n < 8; ++n) D[m][n] += A[m][k] * B[k][n];
    for (int lane = 0; lane < 32; ++lane) {
      const auto& f = *static_cast<MmaFrame*>(frames[lane]);
      for (int i = 0; i < 4; ++i) f.d[i] = D[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
  };
  warp_collective("mma.m16n8k16", ~0u, &frame, multiply, loc);
}

}  // namespace phoenix::simt
