// Which probabilities of attention are kept, one bit each, as tensor-core fragments want them.
//
// A kernel that drew its mask itself would spend more time on Philox than on its products, and the
// backward pass would draw it twice. So one kernel draws it for all: a tile of 64 queries and 64
// keys is a word for each of 128 threads, the bits of the 32 scores that this thread of four warps
// (mma m16n8, or a wgmma of 64 rows) holds. Tiles above the diagonal do not exist. The drawn
// numbers are those of core/kernels/attention.h.
#pragma once

#include <optional>

#include "cuda/attention.cuh"

namespace pyramoe::gpu::attention {

constexpr int kKeepRows = 64;      // queries, and keys, of a tile of bits
constexpr int kKeepThreads = 128;  // words of it

// Bit of a thread's element s[4 * j + i] of a tile: row 16 w + l / 4 (+ 8 for i = 2, 3), column
// 8 j + 2 (l % 4) + i % 2, for lane l of warp w.
__host__ __device__ constexpr int keep_bit(int element) {
  const int j = element / 4, i = element % 4;
  return j / 2 * 8 + i / 2 * 4 + j % 2 * 2 + i % 2;
}

// This thread's words of one tile of queries (or keys) and the tiles of the other kind.
struct KeepRow {
  const uint32_t* words;
  int last;  // there is none behind it: what is asked for there means nothing
  // Asked for here, not where the compiler first needs it: a step before, so that nobody waits.
  __device__ __forceinline__ uint32_t operator[](int tile) const {
    const int there = min(tile, last);
    uint32_t word;
    asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(word) : "l"(words + there * kKeepThreads));
    return word;
  }
};

// What kernels are given. by_query: rows are queries, columns keys; the tiles of a query tile
// follow each other. by_key: rows are keys, columns queries; the tiles of a key tile follow each
// other.
struct Keep {
  const uint32_t* by_query = nullptr;
  const uint32_t* by_key = nullptr;  // in the backward pass
  int tiles = 0;                     // of a sequence
  float factor = 1;                  // 1 / (1 - p)

  __host__ __device__ int64_t pairs() const { return int64_t{tiles} * (tiles + 1) / 2; }
  __device__ int64_t query_place(int64_t head, int q, int k) const {
    return head * pairs() + int64_t{q} * (q + 1) / 2 + k;
  }
  __device__ int64_t key_place(int64_t head, int q, int k) const {
    return head * pairs() + int64_t{k} * tiles - int64_t{k} * (k + 1) / 2 + q;
  }
  __device__ KeepRow of_query(int head, int q) const {
    const int there = min(q, tiles - 1);
    const int64_t word = query_place(head, there, 0) * kKeepThreads + threadIdx.x % kKeepThreads;
    return {by_query + word, there};
  }
  __device__ KeepRow of_key(int head, int k) const {
    const int64_t word = key_place(head, 0, min(k, tiles - 1)) * kKeepThreads;
    return {by_key + word + threadIdx.x % kKeepThreads, tiles - 1};
  }
};
__device__ __forceinline__ bool kept(uint32_t word, int element) {
  return (word >> keep_bit(element) & 1) != 0;
}

// Draws the bits of a call; they live as long as this object. Empty where nothing is dropped. Of
// very long sequences they would be more than this many bytes: then a path that draws as it goes
// is taken instead.
constexpr int64_t kMostKeepBytes = int64_t{4} << 30;

class KeepBits {
 public:
  KeepBits(const Drop& drop, int64_t batch, int64_t heads, int64_t tokens, bool backward);
  const Keep& keep() const { return keep_; }
  static int64_t bytes(int64_t batch, int64_t heads, int64_t tokens, bool backward);

 private:
  Keep keep_;
  std::optional<Scratch> memory_;
};

}  // namespace pyramoe::gpu::attention
