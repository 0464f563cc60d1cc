// TMA: tensor maps, tile and im2col loads, tile stores (PTX ISA 9.0, 5.5 and 9.7.9.27; limits of a map: CUDA driver API, "Tensor Map
// Object").
#include <algorithm>
#include <cstring>
#include <deque>
#include "async.h"

namespace phoenix::simt {

// What a CUtensorMap holds here. Dimension 0 is the innermost and contiguous.
struct Map {
  uint32_t magic;
  uint8_t rank, im2col, swizzle, element;  // bytes of an element
  unsigned char* base;
  uint32_t dim[5];
  uint64_t stride[4];  // bytes, of dimensions 1 and up
  uint32_t box[5];     // im2col: channels, pixels
  int8_t lower[3], upper[3];
  uint8_t step[5];  // element strides
  // Elements that a tile takes along a dimension: the box counts the ones that are stepped over as well.
  uint32_t taken(int i) const { return (box[i] + step[i] - 1) / step[i]; }
};
static_assert(sizeof(Map) <= sizeof(CUtensorMap));
constexpr uint32_t kMagic = 0x7E45041u;

static uint8_t element_bytes(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
      return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      return 2;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
      return 4;
    case CU_TENSOR_MAP_DATA_TYPE_UINT64:
    case CU_TENSOR_MAP_DATA_TYPE_INT64:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT64:
      return 8;
    default:
      return 0;
  }
}
static uint32_t swizzle_span(CUtensorMapSwizzle swizzle) {
  switch (swizzle) {
    case CU_TENSOR_MAP_SWIZZLE_NONE:
      return 1u << 30;
    case CU_TENSOR_MAP_SWIZZLE_32B:
      return 32;
    case CU_TENSOR_MAP_SWIZZLE_64B:
      return 64;
    case CU_TENSOR_MAP_SWIZZLE_128B:
      return 128;
    default:
      return 0;
  }
}
static bool fill(Map& m, CUtensorMapDataType type, uint32_t rank, void* base, const cuuint64_t* dims, const cuuint64_t* strides,
                 const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle) {
  m = {};
  m.magic = kMagic;
  m.rank = uint8_t(rank);
  m.swizzle = uint8_t(swizzle);
  m.element = element_bytes(type);
  m.base = static_cast<unsigned char*>(base);
  if (rank < 1 || rank > 5 || uintptr_t(base) % 16 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || !m.element || !swizzle_span(swizzle))
    return false;
  for (uint32_t i = 0; i < rank; ++i) {
    if (!dims[i] || dims[i] >= uint64_t(1) << 32 || steps[i] < 1 || steps[i] > 8) return false;
    m.dim[i] = uint32_t(dims[i]);
    m.step[i] = uint8_t(steps[i]);
  }
  for (uint32_t i = 0; i + 1 < rank; ++i) {
    if (strides[i] % 16 || strides[i] >= uint64_t(1) << 40) return false;
    m.stride[i] = strides[i];
  }
  return true;
}
CUresult encode_tiled(CUtensorMap* map, CUtensorMapDataType type, uint32_t rank, void* base, const cuuint64_t* dims,
                      const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* element_strides, CUtensorMapInterleave interleave,
                      CUtensorMapSwizzle swizzle) {
  Map m;
  if (!fill(m, type, rank, base, dims, strides, element_strides, interleave, swizzle)) return CUDA_ERROR_INVALID_VALUE;
  for (uint32_t i = 0; i < rank; ++i) {
    if (!box[i] || box[i] > 256) return CUDA_ERROR_INVALID_VALUE;
    m.box[i] = box[i];
  }
  m.step[0] = 1;  // "the first element of this array is ignored"
  if (box[0] * m.element % 16 || box[0] * m.element > swizzle_span(swizzle)) return CUDA_ERROR_INVALID_VALUE;
  memcpy(map, &m, sizeof m);
  return CUDA_SUCCESS;
}
CUresult encode_im2col(CUtensorMap* map, CUtensorMapDataType type, uint32_t rank, void* base, const cuuint64_t* dims,
                       const cuuint64_t* strides, const int* lower, const int* upper, cuuint32_t channels, cuuint32_t pixels,
                       const cuuint32_t* element_strides, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle) {
  Map m;
  if (rank != 4 || !fill(m, type, rank, base, dims, strides, element_strides, interleave, swizzle)) return CUDA_ERROR_INVALID_VALUE;
  const uint32_t bytes = channels * m.element;
  if (!channels || channels > 256 || !pixels || pixels > 1024 || bytes % 16 || bytes > swizzle_span(swizzle))
    return CUDA_ERROR_INVALID_VALUE;
  for (uint32_t i = 0; i < 2; ++i) {
    if (lower[i] < -128 || lower[i] > 127 || upper[i] < -128 || upper[i] > 127) return CUDA_ERROR_INVALID_VALUE;
    m.lower[i] = int8_t(lower[i]);
    m.upper[i] = int8_t(upper[i]);
  }
  m.im2col = 1;
  m.box[0] = channels;
  m.box[1] = pixels;
  memcpy(map, &m, sizeof m);
  return CUDA_SUCCESS;
}

static Map map_of(const CUtensorMap* map, int rank, const char* what, Loc loc) {
  Map m;
  memcpy(&m, map, sizeof m);
  if (m.magic != kMagic) fatal("%s at %s: not a tensor map", what, to_string(loc).c_str());
  if (m.rank != rank) fatal("%s at %s: the tensor map has rank %d, the instruction %d", what, to_string(loc).c_str(), m.rank, rank);
  return m;
}
static uint32_t box_bytes(const Map& m) {
  uint32_t bytes = m.element;
  for (int i = 0; i < (m.im2col ? 2 : m.rank); ++i) bytes *= m.im2col ? m.box[i] : m.taken(i);
  return bytes;
}
// The 16-byte chunk's place: address bits 4-6 are xored with bits 7-9, as many as the swizzle span has.
static uint32_t swizzled(uint32_t offset, int swizzle) {
  const uint32_t mask = swizzle == CU_TENSOR_MAP_SWIZZLE_128B  ? 7
                        : swizzle == CU_TENSOR_MAP_SWIZZLE_64B ? 3
                        : swizzle == CU_TENSOR_MAP_SWIZZLE_32B ? 1
                                                               : 0;
  return offset ^ (offset >> 7 & mask) << 4;
}
// visit(shared offset before the swizzle, global pointer to the row's element 0 or null outside) for every innermost row of the box.
template <class Visit>
static void each_row(const Map& m, const int* c, const uint16_t* offsets, Visit visit) {
  const uint32_t row = m.box[0] * m.element;
  if (!m.im2col) {
    uint32_t n[5] = {1, 1, 1, 1, 1}, offset = 0;
    for (int i = 1; i < m.rank; ++i) n[i] = m.taken(i);
    for (uint32_t i4 = 0; i4 < n[4]; ++i4)
      for (uint32_t i3 = 0; i3 < n[3]; ++i3)
        for (uint32_t i2 = 0; i2 < n[2]; ++i2)
          for (uint32_t i1 = 0; i1 < n[1]; ++i1, offset += row) {
            const uint32_t index[5] = {0, i1, i2, i3, i4};
            unsigned char* global = m.base;
            for (int i = 1; i < m.rank && global; ++i) {
              const int64_t x = int64_t(c[i]) + int64_t(index[i]) * m.step[i];
              global = x < 0 || x >= m.dim[i] ? nullptr : global + uint64_t(x) * m.stride[i - 1];
            }
            visit(offset, global);
          }
    return;
  }
  // Pixels walk the bounding box [lower, dim - 1 + upper] in W, then H, then N; the offsets shift every one of them.
  int w = c[1], h = c[2], n = c[3];
  const int w_last = int(m.dim[1]) - 1 + m.upper[0], h_last = int(m.dim[2]) - 1 + m.upper[1];
  for (uint32_t pixel = 0; pixel < m.box[1]; ++pixel) {
    const int x = w + offsets[0], y = h + offsets[1];
    const bool inside = n >= 0 && n < int(m.dim[3]) && x >= 0 && x < int(m.dim[1]) && y >= 0 && y < int(m.dim[2]);
    visit(pixel * row, inside ? m.base + uint64_t(x) * m.stride[0] + uint64_t(y) * m.stride[1] + uint64_t(n) * m.stride[2] : nullptr);
    w += m.step[1];
    if (w <= w_last) continue;
    w = m.lower[0];
    h += m.step[2];
    if (h <= h_last) continue;
    h = m.lower[1];
    n++;
  }
}
static void check_global(const Map& m, const int* c, const uint16_t* offsets, Access access, const char* what, Loc loc) {
  const int64_t first = std::max(c[0], 0), last = std::min<int64_t>(int64_t(c[0]) + m.box[0], m.dim[0]);
  if (last <= first || !config().checks) return;
  each_row(m, c, offsets, [&](uint32_t, unsigned char* row) {
    if (row) check_access(row + first * m.element, size_t(last - first) * m.element, access, what, loc);
  });
}

void tma_load(void* shared, const CUtensorMap* map, uint64_t* barrier, const int* coordinates, int rank, const uint16_t* offsets, Loc loc) {
  const Map m = map_of(map, rank, "TMA load", loc);
  if (bool(offsets) != bool(m.im2col))
    fatal("TMA load at %s: the map and the instruction differ in mode (tile, im2col)", to_string(loc).c_str());
  const uint32_t bytes = box_bytes(m), slot = mbarrier_slot_of_copy(barrier, "TMA load", loc);
  shared_check(shared, bytes, 128, "TMA load destination", loc);
  struct Place {
    int c[5];
    uint16_t o[2];
  } place{};
  std::copy(coordinates, coordinates + rank, place.c);
  if (offsets) std::copy(offsets, offsets + 2, place.o);
  Clock clock = clock_snapshot(self->index);
  const uint32_t tick = agent_tick(slot);
  check_async(slot, clock, shared, bytes, true, "TMA load", loc);
  mark_pending(shared, bytes, true);
  check_global(m, place.c, place.o, Access::Read, "TMA load", loc);
  memset(shared, 0xFF, bytes);
  defer([=]() mutable {
    const uint32_t first = shared_offset(shared), row_bytes = m.box[0] * m.element;
    each_row(m, place.c, place.o, [&](uint32_t offset, unsigned char* row) {
      for (uint32_t b = 0; b < row_bytes; b += m.element) {
        const int64_t x = place.c[0] + int64_t(b / m.element);
        unsigned char* to = shared_base + swizzled(first + offset + (b & ~15u), m.swizzle) + (b & 15);
        if (row && x >= 0 && x < m.dim[0])
          memcpy(to, row + x * m.element, m.element);
        else
          memset(to, 0, m.element);
      }
    });
    mark_pending(shared, bytes, false);
    clock_set_agent(clock, slot, tick);
    mbarrier_complete(slot, bytes, clock);
  });
}

struct Store {
  Map map;
  int coordinates[5];
  const unsigned char* from;
  uint32_t tick;  // of its agent
};
struct StoreQueue {
  std::vector<Store> open;
  std::deque<std::vector<Store>> groups;
};
static std::vector<StoreQueue> stores;  // by thread
static uint32_t store_agent() { return kStoreAgent + self->warp % kStoreAgents; }

void tma_store(const CUtensorMap* map, const void* shared, const int* coordinates, int rank, Loc loc) {
  Store s{map_of(map, rank, "TMA store", loc), {}, static_cast<const unsigned char*>(shared), 0};
  if (s.map.im2col) fatal("TMA store at %s: im2col stores are not emulated", to_string(loc).c_str());
  const uint32_t bytes = box_bytes(s.map);
  shared_check(shared, bytes, 128, "TMA store source", loc);
  const Clock clock = clock_snapshot(self->index);
  s.tick = agent_tick(store_agent());
  check_async(store_agent(), clock, shared, bytes, false, "TMA store", loc);
  check_global(s.map, coordinates, nullptr, Access::Write, "TMA store", loc);
  std::copy(coordinates, coordinates + rank, s.coordinates);
  stores[self->index].open.push_back(s);
}
static void carry_out(const Store& s) {
  const Map& m = s.map;
  const uint32_t first = shared_offset(s.from), row_bytes = m.box[0] * m.element;
  each_row(m, s.coordinates, nullptr, [&](uint32_t offset, unsigned char* row) {
    for (uint32_t b = 0; row && b < row_bytes; b += m.element) {
      const int64_t x = s.coordinates[0] + int64_t(b / m.element);
      if (x < 0 || x >= m.dim[0]) continue;
      memcpy(row + x * m.element, shared_base + swizzled(first + offset + (b & ~15u), m.swizzle) + (b & 15), m.element);
    }
  });
}
void tma_store_commit() {
  StoreQueue& q = stores[self->index];
  q.groups.push_back(std::move(q.open));
  q.open.clear();
}
void tma_store_wait(int pending_groups) {
  auto& groups = stores[self->index].groups;
  Clock clock;  // the shared memory that they read is free again
  for (; int(groups.size()) > pending_groups; groups.pop_front())
    for (const Store& s : groups.front()) {
      carry_out(s);
      clock_set_agent(clock, store_agent(), s.tick);
    }
  clock_acquire(self->index, clock);
}
void tma_block_begin() { stores.assign(grid.all(), {}); }
void tma_block_end() {
  for (uint32_t i = 0; i < grid.all(); ++i)
    if (!stores[i].open.empty() || !stores[i].groups.empty()) report("thread %u ends with TMA stores not waited for", i);
}

}  // namespace phoenix::simt
