// Draws the mask of attention dropout: 64 queries x 64 keys a block, a bit each (attention_keep.cuh
// says where).
//
// A Philox counter serves four neighbouring keys. Even lanes draw for row l / 4 of their warp, odd
// ones for the row 8 below, four keys at a time; one exchange with the neighbour then gives each
// lane the two columns of both rows that its fragment holds. The transposed words, for the kernel
// with keys at rest, are picked from the drawn bits in shared memory.
#include "cuda/attention_keep.cuh"

namespace pyramoe::gpu::attention {
namespace {

constexpr int kStride = 72;  // words between halves of drawn bits: 8 banks apart

// The tile of this block: pairs run by queries, then keys.
struct Tile {
  int64_t head;
  int q, k;
  __device__ explicit Tile(int64_t pairs) {
    const int64_t i = blockIdx.x;
    head = i / pairs;
    const int64_t pair = i - head * pairs;
    q = static_cast<int>((sqrtf(8.0f * static_cast<float>(pair) + 1) - 1) / 2);
    while (int64_t{q} * (q + 1) / 2 > pair) --q;
    while (int64_t{q + 1} * (q + 2) / 2 <= pair) ++q;
    k = static_cast<int>(pair - int64_t{q} * (q + 1) / 2);
  }
};

// 24 bits of a number at or above the threshold: kept. `limit` is 256 threshold - 1.
__device__ __forceinline__ uint32_t keep_four(const RngKey& key, uint64_t counter, uint32_t limit) {
  const Philox4 words = philox(key, counter);
  return (words.v[0] > limit ? 1u : 0u) | (words.v[1] > limit ? 2u : 0u) |
         (words.v[2] > limit ? 4u : 0u) | (words.v[3] > limit ? 8u : 0u);
}

// Bit 4 j + u is word u of counter from + 2 j.
__device__ __forceinline__ uint32_t draw_eight(const RngKey& key, uint64_t from, uint32_t limit) {
  const auto low = static_cast<uint32_t>(from);
  const uint64_t high = from - low;
  uint32_t bits = 0;
  if (low < 0xfffffff0u) {  // one upper half: the rounds share what depends on it
#pragma unroll
    for (uint32_t j = 0; j < 8; ++j) bits |= keep_four(key, high | (low + 2 * j), limit) << 4 * j;
  } else {
#pragma unroll 1
    for (uint32_t j = 0; j < 8; ++j) bits |= keep_four(key, from + 2 * j, limit) << 4 * j;
  }
  return bits;
}

// Four keys from element `first` on, 8 times, 8 elements apart: bit 4 j + u is element first + 8 j
// + u. Where a row starts between counters, two of them serve four keys.
__device__ __forceinline__ uint32_t draw(const RngKey& key, uint64_t first, uint32_t limit) {
  const int skew = static_cast<int>(first & 3);
  const uint32_t bits = draw_eight(key, first >> 2, limit);
  if (skew == 0) return bits;
  const uint32_t next = draw_eight(key, (first >> 2) + 1, limit);
  const uint32_t low = 0x11111111u * (0xfu >> skew);
  return (bits >> skew & low) | (next << (4 - skew) & ~low);
}

// Queries as rows: a lane has four columns of one row, its neighbour of the row 8 below.
__device__ __forceinline__ uint32_t query_word(uint32_t drawn) {
  // Pairs of bits 0 1 2 3 of a byte to 0 2 1 3: now a half byte holds columns of even and odd j.
  const uint32_t differ = (drawn ^ drawn >> 2) & 0x0c0c0c0cu;
  const uint32_t own = drawn ^ differ ^ differ << 2;
  const uint32_t other = __shfl_xor_sync(0xffffffffu, own, 1);
  constexpr uint32_t kLow = 0x0f0f0f0fu;
  if (threadIdx.x % 2 == 0) return (own & kLow) | (other & kLow) << 4;
  return (other >> 4 & kLow) | (own & ~kLow);
}

// Keys as rows, from the bits all threads drew: those of query q and columns 8 j + 4 half + u are
// bit 4 j + u of drawn[half * kStride + q].
__device__ __forceinline__ uint32_t key_word(const uint32_t* drawn) {
  const int lane = threadIdx.x % 32, key = lane / 4, column = lane % 4 * 2;
  const uint32_t* half = drawn + key / 4 * kStride + column;
  const int shift = threadIdx.x / 32 * 8 + key % 4;  // key + 8 is 4 bits on
  uint32_t word = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const uint2 x = *reinterpret_cast<const uint2*>(half + 8 * j);
    const uint32_t next = __funnelshift_l(x.y, x.y, (33 - shift) & 31);
    word |= ((x.x >> shift & 0x11) | (next & 0x22)) << keep_bit(4 * j);
  }
  return word;
}

template <bool kBackward>
__global__ void __launch_bounds__(kKeepThreads)
    keep_kernel(Drop drop, Keep keep, uint32_t limit, uint32_t* by_query, uint32_t* by_key) {
  const Tile at(keep.pairs());
  const int lane = threadIdx.x % 32, half = lane % 4 / 2;
  const int row = threadIdx.x / 32 * 16 + lane / 4 + lane % 2 * 8;
  const uint64_t first =
      drop.id(static_cast<uint64_t>(at.head), static_cast<uint64_t>(at.q) * kKeepRows + row,
              static_cast<uint64_t>(at.k) * kKeepRows + half * 4);
  const uint32_t bits = draw(drop.key.at_this_step(), first, limit);
  by_query[keep.query_place(at.head, at.q, at.k) * kKeepThreads + threadIdx.x] = query_word(bits);
  if constexpr (kBackward) {
    __shared__ __align__(8) uint32_t drawn[2 * kStride];
    drawn[half * kStride + row] = bits;
    __syncthreads();
    by_key[keep.key_place(at.head, at.q, at.k) * kKeepThreads + threadIdx.x] = key_word(drawn);
  }
}

}  // namespace

int64_t KeepBits::bytes(int64_t batch, int64_t heads, int64_t tokens, bool backward) {
  Keep keep;
  keep.tiles = static_cast<int>(ceil_div(tokens, kKeepRows));
  const int64_t words = batch * heads * keep.pairs() * kKeepThreads;
  return (backward ? 2 : 1) * words * static_cast<int64_t>(sizeof(uint32_t));
}

KeepBits::KeepBits(const Drop& drop, int64_t batch, int64_t heads, int64_t tokens, bool backward) {
  if (drop.threshold == 0) return;
  keep_.tiles = static_cast<int>(ceil_div(tokens, kKeepRows));
  keep_.factor = drop.factor;
  const int64_t blocks = batch * heads * keep_.pairs(), words = blocks * kKeepThreads;
  memory_.emplace(bytes(batch, heads, tokens, backward));
  auto* by_query = memory_->data<uint32_t>();
  uint32_t* by_key = backward ? by_query + words : nullptr;
  const auto limit = static_cast<uint32_t>((uint64_t{drop.threshold} << 8) - 1);
  const auto kernel = backward ? &keep_kernel<true> : &keep_kernel<false>;
  kernel<<<grid(blocks, 1), kKeepThreads, 0, stream()>>>(drop, keep_, limit, by_query, by_key);
  PM_LAUNCHED();
  keep_.by_query = by_query, keep_.by_key = by_key;
}

}  // namespace pyramoe::gpu::attention
