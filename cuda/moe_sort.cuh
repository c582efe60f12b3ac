// A stable counting sort of choices by expert, in three launches: count, scan, place.
//
// Choices are cut into chunks by shape alone; one warp owns a chunk. It finds equal experts among
// its 32 lanes with match_any: a choice's rank is the number of lower lanes with the same expert,
// plus what the warp has seen before, plus what the scan says about the chunks before it. So every
// rank is exact and nothing waits on a lock. Groups (routing groups) are sorted independently.
#pragma once

#include <type_traits>

#include "cuda/reduce.cuh"

namespace pyramoe::gpu {

inline constexpr int kLaneItems = 16;                  // choices a lane holds at once
inline constexpr int64_t kPiece = kLaneItems * kWarp;  // choices a warp walks at once
inline constexpr int64_t kMostChunks = 256;            // of a group: bounds the serial scan
inline constexpr int64_t kSharedExperts = 12 * 1024;   // counters that fit in 48 KiB
inline constexpr int kScanThreads = 1024;

struct Sort {
  int64_t k, experts;
  int64_t groups, group_rows, group_items;  // a group has group_rows tokens, group_items choices
  int64_t chunks, chunk;                    // of a group; choices of a chunk
  bool by_choice;  // order in a group: all first choices, then all second ones; else by token

  int64_t table_bytes() const { return groups * chunks * experts * 4; }
  int shared_bytes() const { return experts <= kSharedExperts ? static_cast<int>(experts * 4) : 0; }
  // The choice at place p of group g's order.
  __device__ int64_t choice(int64_t g, int64_t p) const {
    const int64_t first = g * group_items;
    return by_choice && k > 1 ? first + p % group_rows * k + p / group_rows : first + p;
  }
};

inline Sort make_sort(int64_t rows, int64_t k, int64_t experts, int64_t group_rows,
                      bool by_choice) {
  Sort s{};
  s.k = k;
  s.experts = experts;
  s.group_rows = group_rows;
  s.group_items = group_rows * k;
  s.groups = group_rows > 0 ? rows / group_rows : 1;
  s.chunk = kPiece * std::max<int64_t>(1, ceil_div(s.group_items, kPiece * kMostChunks));
  s.chunks = ceil_div(s.group_items, s.chunk);
  s.by_choice = by_choice;
  return s;
}

// This warp's chunk: where it is and who its counters are.
struct Chunk {
  int64_t group, begin, end;  // places in the group's order
  int32_t *table, *counters;  // this chunk's row of the table, and the copy the warp works on
};
__device__ __forceinline__ Chunk this_chunk(const Sort& s, int64_t index, int32_t* table,
                                            int32_t* shared) {
  Chunk c;
  c.group = index / s.chunks;
  c.begin = (index - c.group * s.chunks) * s.chunk;
  c.end = min(c.begin + s.chunk, s.group_items);
  c.table = table + index * s.experts;
  c.counters = s.experts <= kSharedExperts ? shared : c.table;
  return c;
}

// Up to kPiece choices: each lane's expert, or -1 where there is none or it is dropped.
struct Piece {
  int64_t choice[kLaneItems];  // -1 past the end
  int32_t expert[kLaneItems];
};
__device__ __forceinline__ Piece load_piece(const Sort& s, const Chunk& c, int64_t at,
                                            const int32_t* expert, const uint8_t* kept) {
  Piece piece;
#pragma unroll
  for (int u = 0; u < kLaneItems; ++u) {
    const int64_t p = at + u * kWarp + threadIdx.x;
    piece.choice[u] = p < c.end ? s.choice(c.group, p) : -1;
    piece.expert[u] = p < c.end ? expert[piece.choice[u]] : -1;
  }
#pragma unroll
  for (int u = 0; u < kLaneItems; ++u) {
    const int32_t e = piece.expert[u];
    const bool in = e >= 0 && e < s.experts && (!kept || kept[piece.choice[u]]);
    piece.expert[u] = in ? e : -1;
  }
  return piece;
}

// Adds a piece to the warp's counters; f(u, rank) tells every kept choice its place so far.
template <class F>
__device__ __forceinline__ void walk_piece(const Piece& piece, int32_t* counters, const F& f) {
  uint32_t same[kLaneItems];
#pragma unroll
  for (int u = 0; u < kLaneItems; ++u) same[u] = __match_any_sync(0xffffffffu, piece.expert[u]);
  const uint32_t below = (1u << threadIdx.x) - 1;
#pragma unroll
  for (int u = 0; u < kLaneItems; ++u) {
    const int32_t e = piece.expert[u];
    const int32_t before = e >= 0 ? counters[e] : 0;
    __syncwarp();
    if (e >= 0 && (same[u] & below) == 0) counters[e] = before + __popc(same[u]);
    __syncwarp();
    f(u, before + __popc(same[u] & below));
  }
}

// table[chunk, e] = kept choices of e in the chunk. With `all` twice as many blocks: the second
// half counts the dropped ones too, into all[chunk, e].
static __global__ void __launch_bounds__(kWarp)
    count_choices_kernel(Sort s, const int32_t* __restrict__ expert, const uint8_t* kept,
                         int32_t* table, int32_t* all) {
  extern __shared__ int32_t counters_of_warp[];
  const int64_t chunks = s.groups * s.chunks;
  const bool second = blockIdx.x >= chunks;
  if (second) kept = nullptr;
  const Chunk c = second ? this_chunk(s, blockIdx.x - chunks, all, counters_of_warp)
                         : this_chunk(s, blockIdx.x, table, counters_of_warp);
  for (int64_t e = threadIdx.x; e < s.experts; e += kWarp) c.counters[e] = 0;
  __syncwarp();
  for (int64_t at = c.begin; at < c.end; at += kPiece) {
    walk_piece(load_piece(s, c, at, expert, kept), c.counters, [](int, int32_t) {});
  }
  if (c.counters == c.table) return;
  for (int64_t e = threadIdx.x; e < s.experts; e += kWarp) c.table[e] = c.counters[e];
}

// Sum over the threads below this one; `total` gets the sum over all. shared: 32 values.
__device__ __forceinline__ int32_t block_sum_below(int32_t x, int32_t* shared, int32_t* total) {
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int32_t through = x;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const int32_t left = __shfl_up_sync(0xffffffffu, through, step);
    if (static_cast<int>(lane) >= step) through += left;
  }
  __syncthreads();
  if (lane == kWarp - 1) shared[warp] = through;
  __syncthreads();
  int32_t below = 0;
  *total = 0;
  for (unsigned w = 0; w < blockDim.x / kWarp; ++w) {
    if (w < warp) below += shared[w];
    *total += shared[w];
  }
  return below + through - x;
}

// table becomes the kept choices of e in the chunks before; a block per group. offsets (G, E + 1)
// and load (E) are written where they are asked for (load only with one group).
static __global__ void __launch_bounds__(kScanThreads)
    scan_counts_kernel(Sort s, int32_t* table, const int32_t* __restrict__ all, int32_t* offsets,
                       int32_t* load) {
  __shared__ int32_t shared[kWarp];
  constexpr int kAhead = 8;  // loads in flight before the first sum
  int32_t* mine = table + blockIdx.x * s.chunks * s.experts;
  int32_t carry = 0;
  for (int64_t tile = 0; tile < s.experts; tile += kScanThreads) {
    const int64_t e = tile + threadIdx.x;
    int32_t sum = 0, everything = 0;
    for (int64_t first = 0; e < s.experts && first < s.chunks; first += kAhead) {
      int32_t value[kAhead], extra[kAhead];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        const int64_t c = first + u;
        value[u] = c < s.chunks ? mine[c * s.experts + e] : 0;
        extra[u] = all && c < s.chunks ? all[c * s.experts + e] : 0;
      }
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        if (first + u < s.chunks) mine[(first + u) * s.experts + e] = sum;
        sum += value[u];
        everything += extra[u];
      }
    }
    int32_t total = 0;
    const int32_t below = block_sum_below(sum, shared, &total);
    if (offsets && e < s.experts) offsets[blockIdx.x * (s.experts + 1) + e] = carry + below;
    if (load && e < s.experts) load[e] = all ? everything : sum;
    carry += total;
  }
  if (offsets && threadIdx.x == 0) offsets[blockIdx.x * (s.experts + 1) + s.experts] = carry;
}

// With places for `capacity` choices of an expert and group: table becomes the choices of e in the
// chunks before, base (G, E) the places taken in the groups before; offsets count places. One
// block.
static __global__ void __launch_bounds__(kScanThreads)
    scan_places_kernel(Sort s, int64_t capacity, int32_t* table, int32_t* base, int32_t* offsets,
                       int32_t* load) {
  __shared__ int32_t shared[kWarp];
  constexpr int kAhead = 8;
  const int64_t rows = s.groups * s.chunks;
  int32_t carry = 0;
  for (int64_t tile = 0; tile < s.experts; tile += kScanThreads) {
    const int64_t e = tile + threadIdx.x;
    int32_t sum = 0, places = 0, everything = 0;
    for (int64_t first = 0; e < s.experts && first < rows; first += kAhead) {
      int32_t value[kAhead];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        value[u] = first + u < rows ? table[(first + u) * s.experts + e] : 0;
      }
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        const int64_t i = first + u, group = i / s.chunks;
        if (i >= rows) continue;
        table[i * s.experts + e] = sum;
        sum += value[u];
        if (i - group * s.chunks != s.chunks - 1) continue;
        base[group * s.experts + e] = places;  // the group's last chunk
        places += static_cast<int32_t>(min(static_cast<int64_t>(sum), capacity));
        everything += sum;
        sum = 0;
      }
    }
    int32_t total = 0;
    const int32_t below = block_sum_below(places, shared, &total);
    if (e < s.experts) offsets[e] = carry + below, load[e] = everything;
    carry += total;
  }
  if (threadIdx.x == 0) offsets[s.experts] = carry;
}

// Tells `out` the place of every kept choice: its rank among its expert's, plus offsets if given.
template <class Out>
__global__ void __launch_bounds__(kWarp)
    place_choices_kernel(Sort s, const int32_t* __restrict__ expert,
                         const uint8_t* __restrict__ kept, int32_t* table,
                         const int32_t* __restrict__ offsets, Out out) {
  extern __shared__ int32_t counters_of_warp[];
  const Chunk c = this_chunk(s, blockIdx.x, table, counters_of_warp);
  const int32_t* start = offsets ? offsets + c.group * (s.experts + 1) : nullptr;
  for (int64_t e = threadIdx.x; e < s.experts; e += kWarp) {
    c.counters[e] = c.table[e] + (start ? start[e] : 0);
  }
  __syncwarp();
  for (int64_t at = c.begin; at < c.end; at += kPiece) {
    const Piece piece = load_piece(s, c, at, expert, kept);
    walk_piece(piece, c.counters, [&](int u, int32_t rank) {
      if (piece.choice[u] < 0) return;
      if (piece.expert[u] >= 0) {
        out.place(piece.choice[u], c.group, piece.expert[u], rank);
      } else {
        out.none(piece.choice[u]);
      }
    });
  }
}

// ---- launches

inline void count_choices(const Sort& s, const int32_t* expert, const uint8_t* kept, int32_t* table,
                          int32_t* all) {
  const int64_t blocks = s.groups * s.chunks;
  if (blocks == 0) return;
  count_choices_kernel<<<grid(all ? 2 * blocks : blocks, 1), kWarp, s.shared_bytes(), stream()>>>(
      s, expert, kept, table, all);
  PM_LAUNCHED();
}

inline void scan_counts(const Sort& s, int32_t* table, const int32_t* all, int32_t* offsets,
                        int32_t* load) {
  scan_counts_kernel<<<grid(s.groups, 1), kScanThreads, 0, stream()>>>(s, table, all, offsets,
                                                                       load);
  PM_LAUNCHED();
}

inline void scan_places(const Sort& s, int64_t capacity, int32_t* table, int32_t* base,
                        int32_t* offsets, int32_t* load) {
  scan_places_kernel<<<1, kScanThreads, 0, stream()>>>(s, capacity, table, base, offsets, load);
  PM_LAUNCHED();
}

template <class Out>
void place_choices(const Sort& s, const int32_t* expert, const uint8_t* kept, int32_t* table,
                   const int32_t* offsets, const Out& out) {
  const int64_t blocks = s.groups * s.chunks;
  if (blocks == 0) return;
  place_choices_kernel<<<grid(blocks, 1), kWarp, s.shared_bytes(), stream()>>>(s, expert, kept,
                                                                               table, offsets, out);
  PM_LAUNCHED();
}

}  // namespace pyramoe::gpu
