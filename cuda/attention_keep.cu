// Draws the mask of attention dropout: tiles of 64 queries x 64 keys, a bit each
// (attention_keep.cuh says where). A block draws two tiles of the same queries.
//
// A Philox counter serves four neighbouring keys. Even lanes draw for row l / 4 of their warp, odd
// ones for the row 8 below, four keys at a time; one exchange with the neighbour then gives each
// lane the two columns of both rows that its fragment holds. The transposed words, for the kernel
// with keys at rest, are picked from the drawn bits in shared memory.
#include "cuda/attention_keep.cuh"

namespace pyramoe::gpu::attention {
namespace {

constexpr int kStride = 72;  // words between halves of drawn bits: 8 banks apart
constexpr int kTilesOfBlock = 2;

// The key of each round of Philox, as kernel arguments: an operand from there costs nothing, an
// addition in every thread and round does.
struct RoundKeys {
  uint32_t first[10], second[10];
  explicit RoundKeys(uint64_t seed) {
    for (uint32_t round = 0; round < 10; ++round) {
      first[round] = static_cast<uint32_t>(seed) + round * 0x9E3779B9u;
      second[round] = static_cast<uint32_t>(seed >> 32) + round * 0xBB67AE85u;
    }
  }
};

// philox() of core/rng.h, whose stream (c2, c3) and keys are at hand.
struct Stream {
  const RoundKeys& keys;
  uint32_t step, what;

  __device__ Stream(const RoundKeys& k, const RngKey& key)
      : keys(k), step(key.step), what(static_cast<uint32_t>(key.purpose) << 24 ^ key.layer) {}
  __device__ __forceinline__ Philox4 operator()(uint64_t counter) const {
    auto c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
    uint32_t c2 = step, c3 = what;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
      c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ keys.first[round];
      c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ keys.second[round];
      c1 = static_cast<uint32_t>(p1), c3 = static_cast<uint32_t>(p0);
    }
    return {{c0, c1, c2, c3}};
  }
};

// Adds 1, 2, 4, 8 times `unit` where the 24 bits of a number are at or above the threshold: kept.
//   limit  256 threshold - 1
// Bits are gathered by additions of floats: the units for logic are busy with Philox.
__device__ __forceinline__ void keep_four(const Stream& stream, uint64_t counter, uint32_t limit,
                                          float unit, float& sum) {
  const Philox4 words = stream(counter);
#pragma unroll
  for (int u = 0; u < 4; ++u) {
    if (words.v[u] > limit) sum += unit * static_cast<float>(1 << u);
  }
}

// Bit 4 j + u is word u of counter from + 2 j.
__device__ __forceinline__ uint32_t draw_eight(const Stream& stream, uint64_t from,
                                               uint32_t limit) {
  const auto low = static_cast<uint32_t>(from);
  const uint64_t high = from - low;
  float sums[2] = {0x1p23f, 0x1p23f};  // the lower bits of such a float are its whole part
  if (low < 0xfffffff0u) {             // one upper half: the rounds share what depends on it
#pragma unroll
    for (uint32_t j = 0; j < 8; ++j) {
      keep_four(stream, high | (low + 2 * j), limit, static_cast<float>(1 << j % 4 * 4),
                sums[j / 4]);
    }
  } else {
#pragma unroll 1
    for (uint32_t j = 0; j < 4; ++j) {
      keep_four(stream, from + 2 * j, limit, static_cast<float>(1 << j * 4), sums[0]);
      keep_four(stream, from + 2 * j + 8, limit, static_cast<float>(1 << j * 4), sums[1]);
    }
  }
  return (__float_as_uint(sums[0]) & 0xffffu) | __float_as_uint(sums[1]) << 16;
}

// Four keys from element `first` on, 8 times, 8 elements apart: bit 4 j + u is element first + 8 j
// + u. Where a row starts between counters, two of them serve four keys.
__device__ __forceinline__ uint32_t draw(const Stream& stream, uint64_t first, uint32_t limit) {
  const int skew = static_cast<int>(first & 3);
  const uint32_t bits = draw_eight(stream, first >> 2, limit);
  if (skew == 0) return bits;
  const uint32_t next = draw_eight(stream, (first >> 2) + 1, limit);
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

// Blocks: (heads, tiles of queries, pairs of tiles of keys).
template <bool kBackward>
__global__ void __launch_bounds__(kKeepThreads)
    keep_kernel(const __grid_constant__ Drop drop, const __grid_constant__ RoundKeys keys,
                Keep keep, uint32_t limit, uint32_t* by_query, uint32_t* by_key) {
  const int64_t head = blockIdx.x;
  const int q = static_cast<int>(blockIdx.y), from = static_cast<int>(blockIdx.z) * kTilesOfBlock;
  const int end = min(q + 1, from + kTilesOfBlock);
  if (from >= end) return;
  const int lane = threadIdx.x % 32, half = lane % 4 / 2;
  const int row = threadIdx.x / 32 * 16 + lane / 4 + lane % 2 * 8;
  const Stream stream(keys, drop.key.at_this_step());
  uint64_t first = drop.id(static_cast<uint64_t>(head), static_cast<uint64_t>(q) * kKeepRows + row,
                           static_cast<uint64_t>(from) * kKeepRows + half * 4);
  for (int k = from; k < end; ++k, first += kKeepRows) {
    const uint32_t bits = draw(stream, first, limit);
    by_query[keep.query_place(head, q, k) * kKeepThreads + threadIdx.x] = query_word(bits);
    if constexpr (kBackward) {
      __shared__ __align__(8) uint32_t drawn[2][2 * kStride];  // in turns: one barrier a tile
      drawn[k % 2][half * kStride + row] = bits;
      __syncthreads();
      by_key[keep.key_place(head, q, k) * kKeepThreads + threadIdx.x] = key_word(drawn[k % 2]);
    }
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
  const int64_t all = bytes(batch, heads, tokens, backward);
  memory_.emplace(all);
  auto* by_query = memory_->data<uint32_t>();
  uint32_t* by_key =
      backward ? by_query + all / 2 / static_cast<int64_t>(sizeof(uint32_t)) : nullptr;
  const auto limit = static_cast<uint32_t>((uint64_t{drop.threshold} << 8) - 1);
  const auto kernel = backward ? &keep_kernel<true> : &keep_kernel<false>;
  const dim3 blocks(grid(batch * heads, 1), grid(keep_.tiles, 1), grid(keep_.tiles, kTilesOfBlock));
  kernel<<<blocks, kKeepThreads, 0, stream()>>>(drop, RoundKeys(drop.key.seed), keep_, limit,
                                                by_query, by_key);
  PM_LAUNCHED();
  keep_.by_query = by_query, keep_.by_key = by_key;
}

}  // namespace pyramoe::gpu::attention
