// The way of the grouped products on Hopper over their tiles, and the copies a tile needs.
//
// Blocks run in clusters of two. Both work on the same expert at the same time, on two row tiles of
// the same columns; so each fetches half of the column operand for both, and a byte of it leaves L2
// once where it would twice: that matters most where an expert has a row tile of a few rows, as
// nearly all have when nothing is dropped. The last row tile of an odd number is shared the other
// way round: two neighbouring column tiles, half of the rows' values from each block.
#pragma once

#include "cuda/grouped.cuh"
#include "cuda/grouped.h"
#include "cuda/grouped_epilogue.cuh"
#include "cuda/hopper.cuh"

namespace pyramoe::gpu::grouped {

constexpr int kBoxBytes = 64 * 128;  // a box of 64 lines of 128 bytes, as all copies are
constexpr int kRowBoxes = kTileRows / 64, kColumnBoxes = kTileColumns / 64;
constexpr int kStage = (kRowBoxes + kColumnBoxes) * kBoxBytes;  // 48 KiB
constexpr int kStages = 4;
constexpr int kHopperThreads = 3 * 128;  // a producer, two consumers
constexpr int kMostHopperExperts = 640;  // their counts share the last KiB of shared memory
constexpr int kPairs = 8;                // of row tiles that share a weight tile in a row
constexpr int kBlocks = 2;               // of a cluster

struct Shared {                           // in dynamic shared memory, on a 1024-byte border
  uint8_t stages[kStages][kStage];        // 64 k of 128 rows, then of 256 columns
  uint8_t areas[8][kAreas * kAreaBytes];  // a consumer warp's way out
  uint64_t full[kStages], empty[kStages], landed[8];
  int before[1];  // (E + 1): pairs of tiles of the experts before; dw: the offsets
};

// A tile of C: rows [row, end) of at most 128 of them, columns from `column`.
struct Tile {
  int expert;
  int row, end;  // in C's lines; `end` is where the segment or the expert's weight ends
  int column;
  int first, depth;  // where k starts (dw: the segment), and its length
  bool same_rows;    // as the other block's tile, which has the neighbouring columns
};

__device__ __forceinline__ int row_tiles(int rows) { return (rows + kTileRows - 1) / kTileRows; }
__device__ __forceinline__ int tile_columns(const Product& p) {
  const auto width = static_cast<int>(p.form == Form::forward ? p.m : p.k);
  return (width + kTileColumns - 1) / kTileColumns;
}
// Pairs of tiles, one for each block of a cluster.
__device__ __forceinline__ int pairs(int row_tiles, int columns) {
  return row_tiles / 2 * columns + row_tiles % 2 * ((columns + 1) / 2);
}

// A cluster walks the pairs cluster, cluster + clusters, ... of all experts.
template <Form F>
struct Walk {
  const Product& p;
  const int* before;
  int next = static_cast<int>(blockIdx.x) / kBlocks, expert = 0;
  __device__ Walk(const Product& product, const int* of_shared) : p(product), before(of_shared) {}
  // The block's next tile, or false at the end of the list.
  __device__ bool take(Tile& t) {
    constexpr bool dw = F == Form::dw;
    const auto experts = static_cast<int>(p.experts), m = static_cast<int>(p.m);
    const int columns = tile_columns(p), pairs_of_dw = pairs(row_tiles(m), columns);
    if constexpr (dw) {
      while (next >= pairs_of_dw) next -= pairs_of_dw, ++expert;  // `next` counts on from here
      if (expert >= experts) return false;
    } else {
      if (next >= before[experts]) return false;
      while (next >= before[expert + 1]) ++expert;
    }
    const int in = dw ? next : next - before[expert];
    const int begin = dw ? before[expert] : p.offsets[expert];
    const int end = dw ? before[expert + 1] : p.offsets[expert + 1];
    const int rows = row_tiles(dw ? m : end - begin);
    const int row = place(in, rows, columns, t.same_rows, t.column);
    next += static_cast<int>(gridDim.x) / kBlocks;
    t.expert = expert;
    t.row = row * kTileRows + (dw ? 0 : begin), t.end = dw ? m : end;
    t.first = dw ? begin : 0;
    t.depth = dw ? end - begin : F == Form::forward ? static_cast<int>(p.k) : m;
    return true;
  }

 private:
  // The row tile of this block's part of pair `in` of an expert, and the column where it starts.
  __device__ static int place(int in, int rows, int columns, bool& same_rows, int& column) {
    const auto rank = static_cast<int>(hopper::cluster_rank());
    const int even = rows / 2 * columns;
    int row;
    same_rows = in >= even;
    if (same_rows) {
      row = rows - 1, column = 2 * (in - even) + rank;
    } else if constexpr (F == Form::dw) {
      row = in / columns, column = in - row * columns;  // whole lines of C
      row = 2 * row + rank;
    } else {
      // Groups of row tiles, in a group column by column: the weight tile stays in L2, and so does
      // what the group reads of A.
      const int group = in / (kPairs * columns), left = in - group * kPairs * columns;
      const int size = min(kPairs, rows / 2 - group * kPairs);
      column = left / size, row = 2 * (group * kPairs + left - column * size) + rank;
    }
    column *= kTileColumns;
    return row;
  }
};

// A box for this block, or for both blocks of the cluster.
__device__ __forceinline__ void load(bool both, void* to, const CUtensorMap* map, uint64_t* full,
                                     int x, int y, int z) {
  if (both) {
    hopper::tma_load_both(to, map, full, x, y, z);
  } else {
    hopper::tma_load(to, map, full, x, y, z);
  }
}

// Fills a stage with 64 k. What both blocks need, each fetches half of, for both.
template <Form F>
__device__ __forceinline__ void load_stage(uint8_t* stage, const Maps& maps, uint64_t* full,
                                           const Tile& t, int k, int rank) {
  const CUtensorMap *a = &maps.a, *b = &maps.b;
  constexpr bool forward = F == Form::forward, dw = F == Form::dw;
  if (dw && maps.whole) {
    const int half = kColumnBoxes / 2 * rank;
    hopper::barrier_expect(full, kStage);
    hopper::tma_load(stage, a, full, 0, t.first + k, t.row / 64);
    hopper::tma_load_both(stage + (kRowBoxes + half) * kBoxBytes, b, full, 0, t.first + k,
                          t.column / 64 + half);
    return;
  }
  const bool share_a = t.same_rows, share_b = !t.same_rows;
  const int row_boxes = t.end - t.row <= 64 ? 1 : kRowBoxes;
  hopper::barrier_expect(full, (row_boxes + kColumnBoxes) * kBoxBytes);
  for (int i = 0; i < row_boxes; ++i) {
    if (share_a && i != rank) continue;
    const int row = t.row + 64 * i;
    load(share_a, stage + i * kBoxBytes, a, full, dw ? row : k, dw ? t.first + k : row, 0);
  }
  stage += kRowBoxes * kBoxBytes;
  for (int i = 0; i < kColumnBoxes; ++i) {
    if (share_b && i / (kColumnBoxes / 2) != rank) continue;
    const int column = t.column + 64 * i;
    load(share_b, stage + i * kBoxBytes, b, full, forward ? k : column,
         forward ? column : t.first + k, dw ? 0 : t.expert);
  }
}

// A warp needs the stage no more. Both blocks' producers hear it, as both write to it.
__device__ __forceinline__ void give_back(Shared& s, int stage) {
  const unsigned lane = threadIdx.x % 32;
  if (lane < kBlocks) hopper::barrier_arrive(&s.empty[stage], lane);
}
// The producer's end: nobody leaves before the last word from the other block has come.
__device__ __forceinline__ void wait_for_all(Shared& s, hopper::Ring<kStages>& ring) {
  for (int i = 0; i < kStages; ++i, ring.next()) {
    hopper::barrier_wait(&s.empty[ring.stage], ring.parity ^ 1);
  }
}

// The kernel's start.
template <Form F>
__device__ __forceinline__ void set_up(const Product& p, Shared& s, const Maps& maps) {
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {  // eight warps of a block give a stage back
      hopper::barrier_init(&s.full[i], 1), hopper::barrier_init(&s.empty[i], 8 * kBlocks);
    }
    for (uint64_t& landed : s.landed) hopper::barrier_init(&landed, 1);
    hopper::fence_barrier_init();
    for (const CUtensorMap* map : {&maps.a, &maps.b, &maps.c}) hopper::prefetch_map(map);
  }
  const auto experts = static_cast<int>(p.experts);
  if constexpr (F == Form::dw) {
    for (int i = static_cast<int>(threadIdx.x); i <= experts; i += kHopperThreads) {
      s.before[i] = p.offsets[i];
    }
  } else if (threadIdx.x < 32) {
    const int columns = tile_columns(p);
    count_tiles(p.offsets, experts, s.before,
                [&](int rows) { return pairs(row_tiles(rows), columns); });
  }
  __syncthreads();
  hopper::cluster_sync();
}

// ---- host

inline CUtensorMap rows_map(const void* data, int64_t rows, int64_t width) {
  return hopper::tensor_map(data, std::array{width, rows, int64_t{1}},
                            std::array{width * 2, width * rows * 2}, std::array{64, 64, 1});
}
// The same as blocks of 64 columns (a width of a multiple of 64): a box is `blocks` of them.
inline CUtensorMap blocks_map(const void* data, int64_t rows, int64_t width, int blocks) {
  return hopper::tensor_map(data, std::array{int64_t{64}, rows, width / 64},
                            std::array{width * 2, int64_t{128}}, std::array{64, 64, blocks});
}
inline CUtensorMap weight_map(const Product& p) {
  return hopper::tensor_map(p.b, std::array{p.k, p.m, p.experts},
                            std::array{p.k * 2, p.m * p.k * 2}, std::array{64, 64, 1});
}

// Where results go, or pre comes from.
template <class T>
CUtensorMap result_map(const Product& p, const void* data) {
  const bool dw = p.form == Form::dw;
  const int64_t width = p.form == Form::forward ? p.m : p.k, lines = dw ? p.m : p.rows;
  const int64_t line = width * static_cast<int64_t>(sizeof(T));
  return hopper::tensor_map(
      data, std::array{width, lines, dw ? p.experts : int64_t{1}}, std::array{line, line * lines},
      std::array{128 / static_cast<int>(sizeof(T)), kWarpRows, 1}, hopper::Swizzle::bytes128,
      sizeof(T) == 4 ? hopper::Element::f32 : hopper::Element::bf16);
}

}  // namespace pyramoe::gpu::grouped
