// What the Hopper attention kernels share: tiles, products of tiles, the order of work, the way
// out.
//
// A tile is `rows` tokens of one head, loaded by TMA straight from packed qkv through a map with
// axes (Dh, 3 H, T, B): tokens behind the end arrive as zeros. In shared memory it is kDim / 64
// slabs of (rows, 64) with the 128-byte swizzle. One tile serves as a left operand (rows are M), as
// a right one with tokens as columns (K-major), and as a right one with tokens as the inner index
// (MN-major): no operand is ever transposed in memory.
//
// A block is three warpgroups: one warp of the first only asks TMA for tiles, the other two compute
// on 64 rows each. Blocks live as long as the kernel and walk a list of tiles, so that loads for
// the next tile fly while the last one is finished.
#pragma once

#include "cuda/attention.cuh"
#include "cuda/hopper.cuh"

namespace pyramoe::gpu::attention {

namespace hop = gpu::hopper;

constexpr int kGroupThreads = 128;  // a warpgroup
constexpr int kGroupRows = 64;      // rows of a tile that a warpgroup computes
constexpr int kHopperThreads = 3 * kGroupThreads;
constexpr int kConsumerWarps = 8;
constexpr int kTileRows = 2 * kGroupRows;  // rows of the tile at rest
// Named barriers: 1, 2 turns of the warpgroups; 3, 4 their staging.
constexpr int kTurnBarrier = 1, kStagingBarrier = 3;

template <int kRows, int kDim>
constexpr int kTileBytes = kRows* kDim * 2;
template <int kRows>
constexpr int kSlabBytes = kRows * 128;

// ---- host: maps

inline CUtensorMap packed_map(const void* qkv, int64_t batch, int64_t tokens, int64_t parts,
                              int64_t heads, int64_t dim, int rows) {
  const int64_t row = parts * heads * dim * 2;
  return hop::tensor_map<4>(qkv, {dim, parts * heads, tokens, batch}, {dim * 2, row, tokens * row},
                            {64, 1, rows, 1});
}

// The warpgroup of this thread, in a form that tells the compiler that it is the same in a warp.
__device__ __forceinline__ int warpgroup() {
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
}

// ---- loads

template <int kRows, int kDim>
__device__ __forceinline__ void load_tile(char* to, const CUtensorMap* map, uint64_t* barrier,
                                          int head, int token, int b) {
#pragma unroll
  for (int slab = 0; slab < kDim / 64; ++slab) {
    hop::tma_load(to + slab * kSlabBytes<kRows>, map, barrier, slab * 64, head, token, b);
  }
}

// 2^x by the one instruction there is for it (exp2f adds three around it, for subnormal results).
__device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- products

// d (64 rows of a, kRowsB columns) = a bᵀ.   a: 64 rows of a tile of kRowsA; b: a tile of kRowsB
template <int kDim, int kRowsA, int kRowsB>
__device__ __forceinline__ void product_abt(float (&d)[kRowsB / 2], uint32_t a, uint32_t b) {
  const uint64_t left = hop::tile_descriptor<hop::Major::k>(a);
  const uint64_t right = hop::tile_descriptor<hop::Major::k>(b);
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {  // a descriptor counts its address in units of 16 bytes
    const int slab = k / 4, step = k % 4 * 32;
    hop::wgmma(d, left + (slab * kSlabBytes<kRowsA> + step) / 16,
               right + (slab * kSlabBytes<kRowsB> + step) / 16, k > 0);
  }
}

// A fragment of probabilities as the left operands of kRows / 16 products.
template <int kRows>
using Left = uint32_t[kRows / 16][4];

template <int kRows>
__device__ __forceinline__ void to_left(Left<kRows>& left, const float (&p)[kRows / 2]) {
#pragma unroll
  for (int k = 0; k < kRows / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) left[k][i] = hop::pack_bf16(p[8 * k + 2 * i], p[8 * k + 2 * i + 1]);
  }
}

// d (64, kDim) += p b, or = where add is 0.   p (64, kRows) in registers; b a tile of kRows
template <int kDim, int kRows>
__device__ __forceinline__ void add_product(float (&d)[kDim / 2], const Left<kRows>& p, uint32_t b,
                                            int add) {
  const uint64_t right = hop::tile_descriptor<hop::Major::mn>(b, kSlabBytes<kRows>);
#pragma unroll
  for (int k = 0; k < kRows / 16; ++k) {
    hop::wgmma<hop::Major::mn>(d, p[k], right + k * 16 * 128 / 16, k > 0 ? 1 : add);
  }
}

// The two bf16 of a pair. dS takes P as it was rounded for dV: its fp32 form need not be kept.
__device__ __forceinline__ float low_half(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_half(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// ---- the order of work

// Tiles of kTileRows of all heads. Causal tiles have 1 to `tiles` steps: the long ones go first, so
// that the end is even; heads go in groups whose streamed tensors stay in L2. Blocks take turns
// forth and back, so that nobody gets the longer tile every time.
struct Order {
  int tiles, heads, heads_of_group, b_heads;  // b_heads = B * H
  bool last_first;                            // long tiles are those at the end (queries)

  __host__ __device__ int64_t count() const { return static_cast<int64_t>(tiles) * b_heads; }
  // The turn'th tile of this block, or a number >= count().
  __device__ int64_t index(int turn) const {
    const int64_t place = turn % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x;
    return static_cast<int64_t>(turn) * gridDim.x + place;
  }
  __device__ void at(int64_t index, int& tile, int& head) const {
    const int64_t in_group = static_cast<int64_t>(heads_of_group) * tiles;
    const int group = static_cast<int>(index / in_group);
    const int rest = static_cast<int>(index - group * in_group);
    const int first = group * heads_of_group, own = min(heads_of_group, b_heads - first);
    tile = rest / own;
    if (last_first) tile = tiles - 1 - tile;
    head = first + rest % own;
  }
};

inline Order order_of(int batch, int heads, int tokens, int64_t bytes_of_head, bool last_first) {
  constexpr int64_t kL2 = 32 << 20;
  Order o{};
  o.tiles = static_cast<int>(ceil_div(tokens, kTileRows));
  o.heads = heads, o.b_heads = batch * heads, o.last_first = last_first;
  o.heads_of_group = static_cast<int>(std::clamp<int64_t>(kL2 / bytes_of_head, 1, o.b_heads));
  return o;
}

// The tile walk, the same for the warp that loads and the warpgroups that compute.
template <class F>
__device__ __forceinline__ void for_tiles(const Order& order, F&& f) {
  for (int turn = 0;; ++turn) {
    const int64_t index = order.index(turn);
    if (static_cast<int64_t>(turn) * gridDim.x >= order.count()) return;
    if (index >= order.count()) continue;
    int tile, head;
    order.at(index, tile, head);
    f(tile, head);
  }
}

// Each consumer warp says once that it is done with a buffer.
__device__ __forceinline__ void release(uint64_t* empty) {
  if (threadIdx.x % 32 == 0) hop::barrier_arrive(empty);
}

// ---- the way out

// Writes a warpgroup's rows, times factor_low (rows lane / 4) or factor_high (+ 8), as bf16.
//   staging  kTileBytes<64, kDim> of this warpgroup alone;  bar  a named barrier of its own
// TMA cuts off rows behind the end of the sequence.
template <int kDim>
__device__ __forceinline__ void store_rows(const float (&d)[kDim / 2], float factor_low,
                                           float factor_high, char* staging, int bar,
                                           const CUtensorMap* map, int head, int token, int b) {
  const int thread = threadIdx.x % kGroupThreads;
  const int row = thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 4;  // bytes
  if (thread == 0) hop::tma_store_wait_read<0>();  // the last store has left the staging
  hop::named_barrier_sync(bar, kGroupThreads);
#pragma unroll
  for (int g = 0; g < kDim / 8; ++g) {
    char* slab = staging + g / 8 * kSlabBytes<kGroupRows>;
    const int byte = g % 8 * 16 + column;
    *reinterpret_cast<uint32_t*>(slab + hop::swizzled_offset(row, byte)) =
        hop::pack_bf16(d[4 * g] * factor_low, d[4 * g + 1] * factor_low);
    *reinterpret_cast<uint32_t*>(slab + hop::swizzled_offset(row + 8, byte)) =
        hop::pack_bf16(d[4 * g + 2] * factor_high, d[4 * g + 3] * factor_high);
  }
  hop::fence_async_proxy();
  hop::named_barrier_sync(bar, kGroupThreads);
  if (thread == 0) {
#pragma unroll
    for (int slab = 0; slab < kDim / 64; ++slab) {
      hop::tma_store(map, staging + slab * kSlabBytes<kGroupRows>, slab * 64, head, token, b);
    }
    hop::tma_store_commit();
  }
}

// Before a block ends, its stores must have left shared memory.
__device__ __forceinline__ void finish_stores() {
  if (threadIdx.x % kGroupThreads == 0) hop::tma_store_wait_read<0>();
}

}  // namespace pyramoe::gpu::attention
