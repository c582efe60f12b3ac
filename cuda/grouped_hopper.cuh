// The way of the grouped products on Hopper over their tiles, and the copies a tile needs.
//
// Of y and dx, blocks run in clusters of two. Both work on the same expert at the same time, on two
// row tiles of the same columns; so each fetches half of the weight tile for both, and a byte of it
// leaves L2 once where it would twice: that matters where an expert has a row tile of a few rows,
// as nearly all have when nothing is dropped. The last row tile of an odd number is shared the
// other way round: two neighbouring column tiles, half of the rows' values from each block. dw
// reads few operands for what it writes; it gains nothing by clusters, but by writing whole lines
// of C.
#pragma once

#include "cuda/grouped.cuh"
#include "cuda/grouped.h"
#include "cuda/grouped_epilogue.cuh"
#include "cuda/hopper.cuh"

namespace pyramoe::gpu::grouped {

constexpr int kBoxBytes = 64 * 128;  // a box of 64 lines of 128 bytes, as all copies are
constexpr int kRowBoxes = kTileRows / 64, kColumnBoxes = kTileColumns / 64;
constexpr int kStage = (kRowBoxes + kColumnBoxes) * kBoxBytes;  // 48 KiB
constexpr int kHopperThreads = 3 * 128;                         // a producer, two consumers
constexpr int kMostHopperExperts = 640;  // their counts share the last KiB of shared memory
constexpr int kPairs = 8;                // of row tiles that share a weight tile in a row
template <Form F>
constexpr int kBlocks = F == Form::dw ? 1 : 2;  // of a cluster

// In dynamic shared memory, on a 1024-byte border. Either four stages and two areas a consumer warp
// or, where tiles are thin (few stages each, as many bytes out as in), three and four: then a whole
// tile can be on its way out at once.
template <bool Thin>
struct Shared {
  static constexpr int kStages = Thin ? 3 : 4, kAreas = Thin ? 4 : 2;
  uint8_t stages[kStages][kStage];       // 64 k of 128 rows, then of 256 columns
  uint8_t areas[8][kAreas][kAreaBytes];  // a consumer warp's way out
  uint64_t full[kStages], empty[kStages], landed[8];
  int before[1];  // (E + 1): pairs of tiles of the experts before; dw: the offsets
};

// All that the copy engine moves.
struct Maps {
  CUtensorMap a, b, c, extra, pre;
  bool whole = false;  // dw: a box of a, of b is all that a stage takes of it
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

// A cluster walks the pairs cluster, cluster + clusters, ... of all experts; in dw, where all
// experts have equally many, a block alone the tiles, without a division.
template <Form F>
struct Walk {
  const Product& p;
  const int* before;
  int next = static_cast<int>(blockIdx.x) / kBlocks<F>, expert = 0;
  int row = 0, column = next;  // dw: of the next tile
  __device__ Walk(const Product& product, const int* pairs_before)
      : p(product), before(pairs_before) {}
  // The block's next tile, or false at the end of the list.
  __device__ bool take(Tile& t) {
    const auto experts = static_cast<int>(p.experts);
    const int columns = tile_columns(p);
    t.same_rows = false;
    if constexpr (F == Form::dw) {
      const int rows = row_tiles(static_cast<int>(p.m));
      while (column >= columns) column -= columns, ++row;
      while (row >= rows) row -= rows, ++expert;
      if (expert >= experts) return false;
      t.row = row * kTileRows, t.end = static_cast<int>(p.m);
      t.column = column * kTileColumns;
      t.first = before[expert], t.depth = before[expert + 1] - t.first;
      column += static_cast<int>(gridDim.x);
    } else {
      const auto rank = static_cast<int>(hopper::cluster_rank());
      if (next >= before[experts]) return false;
      while (next >= before[expert + 1]) ++expert;
      const int begin = p.offsets[expert], in = next - before[expert];
      t.end = p.offsets[expert + 1];
      const int rows = row_tiles(t.end - begin);
      next += static_cast<int>(gridDim.x) / kBlocks<F>;
      if (in >= rows / 2 * columns) {
        t.same_rows = true;
        row = rows - 1, column = 2 * (in - rows / 2 * columns) + rank;
      } else {
        // Groups of row tiles, in a group column by column: the weight tile stays in L2, and so
        // does what the group reads of A.
        const int group = in / (kPairs * columns), left = in - group * kPairs * columns;
        const int size = min(kPairs, rows / 2 - group * kPairs);
        column = left / size, row = 2 * (group * kPairs + left - column * size) + rank;
      }
      t.row = begin + row * kTileRows, t.column = column * kTileColumns;
      t.first = 0, t.depth = static_cast<int>(F == Form::forward ? p.k : p.m);
    }
    t.expert = expert;
    return true;
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
    hopper::barrier_expect(full, kStage);
    hopper::tma_load(stage, a, full, 0, t.first + k, t.row / 64);
    hopper::tma_load(stage + kRowBoxes * kBoxBytes, b, full, 0, t.first + k, t.column / 64);
    return;
  }
  const bool share_a = kBlocks<F> == 2 && t.same_rows, share_b = kBlocks<F> == 2 && !t.same_rows;
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
template <Form F, class Shared>
__device__ __forceinline__ void give_back(Shared& s, int stage) {
  const unsigned lane = threadIdx.x % 32;
  if constexpr (kBlocks<F> == 1) {
    if (lane == 0) hopper::barrier_arrive(&s.empty[stage]);
  } else {
    if (lane < 2) hopper::barrier_arrive(&s.empty[stage], lane);
  }
}
// The producer's end: nobody leaves before the last word from the other block has come.
template <class Shared>
__device__ __forceinline__ void wait_for_all(Shared& s, hopper::Ring<Shared::kStages>& ring) {
  for (int i = 0; i < Shared::kStages; ++i, ring.next()) {
    hopper::barrier_wait(&s.empty[ring.stage], ring.parity ^ 1);
  }
}

// The kernel's start.
template <Form F, class Shared>
__device__ __forceinline__ void set_up(const Product& p, Shared& s, const Maps& maps) {
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shared::kStages; ++i) {  // eight warps of a block give a stage back
      hopper::barrier_init(&s.full[i], 1), hopper::barrier_init(&s.empty[i], 8 * kBlocks<F>);
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
  if constexpr (kBlocks<F> == 2) hopper::cluster_sync();
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
