// The grouped products on Hopper: a persistent kernel of three warpgroups a multiprocessor.
//
// One producer warp keeps a ring of four stages full by bulk copies (TMA); two consumer warpgroups
// multiply them with wgmma, 64 rows of a 128 x 256 tile of C each, with 128 sums a thread. A block
// walks the tiles blockIdx, blockIdx + gridDim, ... of the list in grouped.cuh, so while the
// consumers write one tile out, the producer already fetches the next. Why it is fast: 85 FLOP per
// byte from L2 at this tile; no operand is ever copied or transposed (what does not run along k
// goes to wgmma as an MN-major operand); neighbouring blocks work on the same weight tile, so HBM
// sees each weight once; finishing (bias, GELU) costs no pass over memory. Ragged ends: rows beyond
// a segment in A only spoil rows of C that are not stored; in dw, where k runs over rows, they are
// zeroed in shared memory; stores check each row. What else a tile's end reads must be asked for
// long before: the ring keeps so many bytes on their way that a load waits for microseconds. So pre
// comes through the ring, as one stage a consumer behind the last k, and a bias is read first.
#include "cuda/grouped.cuh"
#include "cuda/grouped.h"
#include "cuda/grouped_epilogue.cuh"
#include "cuda/hopper.cuh"

namespace pyramoe::gpu::grouped {
namespace {

using namespace hopper;

constexpr int kBlockBytes = 64 * 128;      // a box of 64 lines
constexpr int kABytes = 2 * kBlockBytes;   // 128 rows x 64 k
constexpr int kBBytes = 4 * kBlockBytes;   // 256 columns x 64 k
constexpr int kStage = kABytes + kBBytes;  // 48 KiB
constexpr int kStages = 4;
constexpr int kThreads = 3 * 128;            // producer, two consumers
constexpr int kMostHopperExperts = 640;      // their counts share the last KiB of shared memory
[[maybe_unused]] constexpr int kGroup = 16;  // row tiles that share a weight tile in a row

struct Shared {  // in dynamic shared memory, on a 1024-byte border
  uint8_t stages[kStages][kStage];
  uint8_t slots[2][2 * kSlotBytes];  // a consumer warpgroup's way out
  uint64_t full[kStages], empty[kStages];
  int before[1];  // (E + 1): row tiles of the experts before
};

// A tile of C: rows [row, end) of at most 128 of them, columns from `column`.
struct Tile {
  int expert;
  int row, end;  // in C's lines; `end` is where the segment or the expert's weight ends
  int column;
  int first, depth;  // where k starts (dw: the segment), and its length
};

template <Form F>
struct Walk {
  const Product& p;
  const int* before;
  int columns, rows_of_dw, next, total;  // tiles along C's columns; row tiles of one dw_e
  int expert = 0;
  __device__ Walk(const Product& product, const int* row_tiles)
      : p(product), before(row_tiles), next(static_cast<int>(blockIdx.x)) {
    const auto width = static_cast<int>(F == Form::forward ? p.m : p.k);
    columns = (width + kTileColumns - 1) / kTileColumns;
    rows_of_dw = (static_cast<int>(p.m) + kTileRows - 1) / kTileRows;
    const auto experts = static_cast<int>(p.experts);
    total = columns * (F == Form::dw ? experts * rows_of_dw : before[experts]);
  }
  // The block's next tile, or false at the end of the list.
  __device__ bool take(Tile& t) {
    if (next >= total) return false;
    int in, rows;  // number within the expert, and its row tiles
    if constexpr (F == Form::dw) {
      rows = rows_of_dw;
      expert = next / (rows * columns), in = next - expert * rows * columns;
    } else {
      while (next >= before[expert + 1] * columns) ++expert;
      rows = before[expert + 1] - before[expert], in = next - before[expert] * columns;
    }
    next += static_cast<int>(gridDim.x);
    // Groups of row tiles, in a group column by column: the weight tile stays in L2, and so does
    // what the group reads of A.
    const int group = in / (kGroup * columns), left = in - group * kGroup * columns;
    const int size = min(kGroup, rows - group * kGroup);
    const int column = left / size, row = group * kGroup + left - column * size;
    const int first = p.offsets[expert], last = p.offsets[expert + 1];
    t.expert = expert, t.column = column * kTileColumns;
    if constexpr (F == Form::dw) {
      t.row = row * kTileRows, t.end = static_cast<int>(p.m);
      t.first = first, t.depth = last - first;
    } else {
      t.row = first + row * kTileRows, t.end = last;
      t.first = 0, t.depth = static_cast<int>(F == Form::forward ? p.k : p.m);
    }
    return true;
  }
};

// One thread fills the ring. Boxes of A are {64, 64}: rows by k or, for dw, k by rows of C.
template <Form F, Finish E>
__device__ void produce(const Product& p, const CUtensorMap* a, const CUtensorMap* b,
                        const CUtensorMap* pre, Shared& s) {
  Ring<kStages> ring;
  Walk<F> walk(p, s.before);
  Tile t;
  while (walk.take(t)) {
    const bool half = t.end - t.row <= 64;  // the second consumer has nothing to do
    for (int k = 0; k < t.depth; k += 64, ring.next()) {
      uint64_t* full = &s.full[ring.stage];
      uint8_t* to = s.stages[ring.stage];
      barrier_wait(&s.empty[ring.stage], ring.parity ^ 1);
      barrier_expect(full, kStage - (half ? kBlockBytes : 0));
      for (int i = 0; i < (half ? 1 : 2); ++i) {
        if constexpr (F == Form::dw) {
          tma_load(to + i * kBlockBytes, a, full, t.row + 64 * i, t.first + k);
        } else {
          tma_load(to + i * kBlockBytes, a, full, k, t.row + 64 * i);
        }
      }
      to += kABytes;
      if constexpr (F == Form::forward) {
        tma_load(to, b, full, k, t.column, t.expert);
      } else {
        for (int i = 0; i < 4; ++i) {
          if constexpr (F == Form::dx) {
            tma_load(to + i * kBlockBytes, b, full, t.column + 64 * i, k, t.expert);
          } else {
            tma_load(to + i * kBlockBytes, b, full, t.column + 64 * i, t.first + k);
          }
        }
      }
    }
    if constexpr (E == Finish::gelu_backward) {
      for (int group = 0; group < (half ? 1 : 2); ++group, ring.next()) {
        uint64_t* full = &s.full[ring.stage];
        barrier_wait(&s.empty[ring.stage], ring.parity ^ 1);
        barrier_expect(full, 4 * kBlockBytes);
        for (int i = 0; i < 4; ++i) {
          tma_load(s.stages[ring.stage] + i * kBlockBytes, pre, full, t.column + 64 * i,
                   t.row + 64 * group, 0);
        }
      }
    }
  }
}

// dw: the lines of a stage beyond the segment's end become zero, in all six boxes. The sum of what
// they hold must not count, and they may hold another expert's rows or no numbers at all.
[[maybe_unused]] __device__ __forceinline__ void zero_lines(uint8_t* stage, int from) {
  const int thread = static_cast<int>(threadIdx.x) - 128;
  const int vectors = (64 - from) * 8;  // of 16 bytes, in one box
  for (int i = thread; i < 6 * vectors; i += 256) {
    const int box = i / vectors, at = i - box * vectors;
    *reinterpret_cast<uint4*>(stage + box * kBlockBytes + from * 128 + at * 16) = uint4{};
  }
  fence_async_proxy();
  named_barrier_sync(1, 256);
}

template <Form F>
__device__ __forceinline__ void multiply_stage(float (&sum)[128], uint32_t a, uint32_t b,
                                               bool first) {
  constexpr Major major_a = F == Form::dw ? Major::mn : Major::k;
  constexpr Major major_b = F == Form::forward ? Major::k : Major::mn;
  constexpr int step_a = major_a == Major::k ? 32 : 2048, step_b = major_b == Major::k ? 32 : 2048;
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    wgmma<major_a, major_b>(sum, tile_descriptor<major_a>(a + k * step_a, kBlockBytes),
                            tile_descriptor<major_b>(b + k * step_b, kBlockBytes), !first || k > 0);
  }
  wgmma_commit();
}

// The sums of a tile: runs over its stages, each given back when nobody reads it any more.
template <Form F>
__device__ __forceinline__ void multiply_tile(float (&sum)[128], const Tile& t, Shared& s,
                                              Ring<kStages>& ring, int group, bool idle) {
  const bool speaker = threadIdx.x % 32 == 0;  // a stage is free when all eight warps say so
  int held = -1;                               // the stage that the products under way still read
  for (int k = 0; k < t.depth; k += 64, ring.next()) {
    barrier_wait(&s.full[ring.stage], ring.parity);
    if constexpr (F == Form::dw) {
      if (t.depth - k < 64) zero_lines(s.stages[ring.stage], t.depth - k);
    }
    if (!idle) {
      const uint32_t stage = shared_address(s.stages[ring.stage]);
      multiply_stage<F>(sum, stage + static_cast<uint32_t>(group * kBlockBytes), stage + kABytes,
                        k == 0);
      wgmma_wait<1>();
    }
    if (held >= 0 && speaker) barrier_arrive(&s.empty[held]);
    held = ring.stage;
  }
  wgmma_wait<0>();
  if (held >= 0 && speaker) barrier_arrive(&s.empty[held]);
  if (F == Form::dw && t.depth == 0) {
#pragma unroll
    for (int i = 0; i < 128; ++i) sum[i] = 0;
  }
  wgmma_touch(sum);
}

// Calls f(stage) with the stage that holds this warpgroup's rows of pre; both warpgroups pass by
// both stages.
template <class F>
__device__ __forceinline__ void with_pre(const Tile& t, Shared& s, Ring<kStages>& ring, int group,
                                         F&& f) {
  const int stages = t.end - t.row <= 64 ? 1 : 2;
  int mine = -1;
  for (int i = 0; i < stages; ++i, ring.next()) {
    barrier_wait(&s.full[ring.stage], ring.parity);
    if (i == group) {
      mine = ring.stage;
    } else if (threadIdx.x % 32 == 0) {
      barrier_arrive(&s.empty[ring.stage]);
    }
  }
  if (mine < 0) return;
  f(s.stages[mine]);
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(&s.empty[mine]);
}

template <Form F, Finish E, class TC>
__device__ void consume(const Product& p, const CUtensorMap* c, Shared& s) {
  const int group = static_cast<int>(threadIdx.x) / 128 - 1;  // 0 or 1: 64 rows each
  Exit exit{s.slots[group], group, static_cast<int>(threadIdx.x) / 32 % 4, threadIdx.x % 128 == 0};
  Ring<kStages> ring;
  Walk<F> walk(p, s.before);
  Tile t;
  while (walk.take(t)) {
    float sum[128];
    const int row = t.row + 64 * group;
    const bool idle = row >= t.end;
    [[maybe_unused]] Bias bias;
    if constexpr (F == Form::forward) bias.load(p, t.expert, t.column);
    multiply_tile<F>(sum, t, s, ring, group, idle);
    if constexpr (E == Finish::gelu_backward) {
      with_pre(t, s, ring, group, [&](const uint8_t* pre) {
        store_tile<F, E>(p, sum, exit, pre, row, t.end, t.column);
      });
      continue;
    }
    if (idle) continue;
    if constexpr (F == Form::forward) bias.add(sum);
    if constexpr (F == Form::dw) {
      if (sizeof(TC) == 4 || p.accumulate) {
        send_tile<F, TC>(p, c, sum, exit, row, t.column, t.expert);
      } else {
        const int64_t base = static_cast<int64_t>(t.expert) * p.m;
        store_tile<F, E>(p, sum, exit, nullptr, base + row, base + t.end, t.column);
      }
    } else if (E == Finish::plain && row + 64 <= t.end) {
      send_tile<F, TC>(p, c, sum, exit, row, t.column, 0);
    } else {
      store_tile<F, E>(p, sum, exit, nullptr, row, t.end, t.column);
    }
  }
  if (exit.speaker) tma_store_wait_read<0>();
}

template <Form F, Finish E, class TC>
__global__ __launch_bounds__(kThreads, 1)  //
    void hopper_kernel(const Product p, const __grid_constant__ CUtensorMap a,
                       const __grid_constant__ CUtensorMap b,
                       const __grid_constant__ CUtensorMap c) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) barrier_init(&s.full[i], 1), barrier_init(&s.empty[i], 8);
    fence_barrier_init();
    for (const CUtensorMap* map : {&a, &b, &c}) prefetch_map(map);
  }
  if (F != Form::dw && threadIdx.x < 32) {
    count_row_tiles(p.offsets, static_cast<int>(p.experts), kTileRows, s.before);
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    release_registers<40>();
    if (threadIdx.x == 0) produce<F, E>(p, &a, &b, &c, s);
  } else {
    take_registers<232>();
    consume<F, E, TC>(p, &c, s);
  }
#endif
}

// ---- host

CUtensorMap rows_map(const void* data, int64_t rows, int64_t width) {
  return tensor_map(data, std::array{width, rows}, std::array{width * 2}, std::array{64, 64});
}
CUtensorMap weight_map(const Product& p, int lines) {
  return tensor_map(p.b, std::array{p.k, p.m, p.experts}, std::array{p.k * 2, p.m * p.k * 2},
                    std::array{64, lines, 1});
}

// Where results go, or pre comes from: boxes of 64 lines of 128 bytes.
template <class T>
CUtensorMap result_map(const Product& p, const void* data) {
  const bool dw = p.form == Form::dw;
  const int64_t width = p.form == Form::forward ? p.m : p.k, lines = dw ? p.m : p.rows;
  const int64_t line = width * static_cast<int64_t>(sizeof(T));
  return tensor_map(data, std::array{width, lines, dw ? p.experts : int64_t{1}},
                    std::array{line, line * lines},
                    std::array{128 / static_cast<int>(sizeof(T)), 64, 1}, Swizzle::bytes128,
                    sizeof(T) == 4 ? Element::f32 : Element::bf16);
}

template <Form F, Finish E, class TC>
void launch(const Product& p, int multiprocessors, cudaStream_t stream) {
  const bool forward = F == Form::forward;
  const CUtensorMap a = rows_map(p.a, p.rows, forward ? p.k : p.m);
  const CUtensorMap b =
      F == Form::dw ? rows_map(p.b, p.rows, p.k) : weight_map(p, forward ? kTileColumns : 64);
  const CUtensorMap c = result_map<TC>(p, E == Finish::gelu_backward ? p.pre : p.c);
  const int64_t columns = ceil_div(forward ? p.m : p.k, kTileColumns);
  const int64_t rows = F == Form::dw ? p.experts * ceil_div(p.m, kTileRows)
                                     : p.rows / kTileRows + p.experts;  // at most
  const auto kernel = hopper_kernel<F, E, TC>;
  const int bytes = static_cast<int>(sizeof(Shared) + static_cast<size_t>(p.experts) * 4);
  allow_shared_memory(reinterpret_cast<const void*>(kernel), bytes);
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(columns * rows, multiprocessors));
  kernel<<<blocks, kThreads, static_cast<size_t>(bytes), stream>>>(p, a, b, c);
  PM_LAUNCHED();
}

}  // namespace

bool fits_hopper(const Product& p) {
  const auto aligned = [](const void* x) { return reinterpret_cast<uintptr_t>(x) % 16 == 0; };
  return p.bf16 && p.m > 0 && p.k > 0 && p.rows > 0 && p.experts > 0 && p.m % 8 == 0 &&
         p.k % 8 == 0 && p.experts <= kMostHopperExperts && !(p.wide && p.form == Form::dx) &&
         aligned(p.a) && aligned(p.b) && aligned(p.c) && aligned(p.pre) && aligned(p.extra) &&
         aligned(p.bias) &&
         (p.rows / kTileRows + p.experts) * ceil_div(std::max(p.m, p.k), kTileColumns) < (1 << 30);
}

void hopper(const Product& p, int multiprocessors, cudaStream_t stream) {
  if (p.form == Form::forward) {
    (p.finish == Finish::gelu
         ? launch<Form::forward, Finish::gelu, Bf16>
         : launch<Form::forward, Finish::plain, Bf16>)(p, multiprocessors, stream);
  } else if (p.form == Form::dx) {
    (p.finish == Finish::gelu_backward
         ? launch<Form::dx, Finish::gelu_backward, Bf16>
         : launch<Form::dx, Finish::plain, Bf16>)(p, multiprocessors, stream);
  } else {
    (p.wide ? launch<Form::dw, Finish::plain, float>
            : launch<Form::dw, Finish::plain, Bf16>)(p, multiprocessors, stream);
  }
}

}  // namespace pyramoe::gpu::grouped
