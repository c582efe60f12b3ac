// What both decode kernels share: a chunk of 64 keys in a block's registers.
//
// kLanes threads share a key, 16 bytes of it and of its value each; the loads of a chunk are all in
// flight before the first is used. Keys below `length` come from the cache, the new ones from qkv,
// and whoever meets those writes them to the cache. Chunks start at multiples of 64 whatever the
// length is: a token's result does not depend on who travels with it.
#pragma once

#include "cuda/attention.cuh"
#include "cuda/vec.cuh"

namespace pyramoe::gpu::attention {

constexpr int kChunk = 64;  // keys of a block at a time
constexpr int kDecodeThreads = 128;
constexpr int kDecodeMaxQueries = 4;  // more (a prompt): the tile kernels

template <class T>
struct Decode {
  Forward<T> f;
  const T* qkv;  // (B, queries, 3, H, Dh)
  T* cache;      // (B, capacity, 2, H, Dh)
};

template <class T, int kLanes>
struct Chunk {
  static constexpr int kPer = 16 / sizeof(T);  // elements a thread
  static constexpr int kDim = kLanes * kPer;
  static constexpr int kAtOnce = kDecodeThreads / kLanes;  // keys the block reads at once
  static constexpr int kKeys = kChunk / kAtOnce;           // keys of a thread
  Vec<T> k[kKeys], v[kKeys];

  // Position of the thread's j'th key in the chunk.
  __device__ __forceinline__ static int key(int j) {
    return j * kAtOnce + static_cast<int>(threadIdx.x) / kLanes;
  }

  // All loads before any use, and no branch between them: each would wait for the one before.
  // Keys behind the last one are read as some key that is there, and masked later.
  __device__ __forceinline__ void load(const Decode<T>& d, int b, int h, int k0, int length,
                                       int keys) {
    const int64_t width = static_cast<int64_t>(d.f.heads) * kDim;
    const int64_t column = h * kDim + threadIdx.x % kLanes * kPer;
    const T* const old = d.cache + static_cast<int64_t>(b) * d.f.capacity * 2 * width + column;
    const T* const fresh = d.qkv + (3 * static_cast<int64_t>(b) * d.f.queries + 1) * width + column;
    const T* from[kKeys];
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const int t = min(k0 + key(j), keys - 1);
      from[j] = t < length ? old + 2 * width * t : fresh + 3 * width * (t - length);
    }
#pragma unroll
    for (int j = 0; j < kKeys; ++j) k[j] = load_vec(from[j]);
#pragma unroll
    for (int j = 0; j < kKeys; ++j) v[j] = load_vec(from[j] + width);
  }
  // Writes the chunk's new keys and values to the cache.
  __device__ __forceinline__ void append(const Decode<T>& d, int b, int h, int k0, int length,
                                         int keys) const {
    if (k0 + kChunk <= length) return;
    const int64_t width = static_cast<int64_t>(d.f.heads) * kDim;
    T* const rows = d.cache + static_cast<int64_t>(b) * d.f.capacity * 2 * width + h * kDim +
                    threadIdx.x % kLanes * kPer;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const int t = k0 + key(j);
      if (t < length || t >= keys) continue;
      store_vec(rows + 2 * width * t, k[j]), store_vec(rows + 2 * width * t + width, v[j]);
    }
  }
};

// A running softmax over some keys, in units of log2: the thread's part of Σ p v.
template <int kPer>
struct Running {
  float largest = -INFINITY, sum = 0, o[kPer] = {};

  // Before the first key the largest score is -inf, and -inf - -inf is not a number.
  __device__ __forceinline__ static float factor(float from, float to) {
    return from == -INFINITY ? 0.0f : exp2f(from - to);
  }
  template <class T, int kLanes>
  __device__ __forceinline__ void step(const Chunk<T, kLanes>& c, const Vec<T>& q, float scale,
                                       int seen) {
    constexpr int kKeys = Chunk<T, kLanes>::kKeys;
    float s[kKeys], top = largest;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      float x = 0;
#pragma unroll
      for (int i = 0; i < kPer; ++i) x = fmaf(to_float(q.v[i]), to_float(c.k[j].v[i]), x);
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
      s[j] = Chunk<T, kLanes>::key(j) < seen ? x * scale : -INFINITY;
      top = fmaxf(top, s[j]);
    }
    const float shrink = factor(largest, top);
    sum *= shrink, largest = top;
#pragma unroll
    for (int i = 0; i < kPer; ++i) o[i] *= shrink;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const float p = factor(s[j], top);
      sum += p;
#pragma unroll
      for (int i = 0; i < kPer; ++i) o[i] = fmaf(p, to_float(c.v[j].v[i]), o[i]);
    }
  }
  // Joins the lanes whose index differs in `bit`: both get the sum over both.
  __device__ __forceinline__ void join(int bit) {
    const float other = __shfl_xor_sync(0xffffffffu, largest, bit), top = fmaxf(largest, other);
    const float own = factor(largest, top), theirs = factor(other, top);
    sum = sum * own + __shfl_xor_sync(0xffffffffu, sum, bit) * theirs;
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      o[i] = o[i] * own + __shfl_xor_sync(0xffffffffu, o[i], bit) * theirs;
    }
    largest = top;
  }
};

// The sum of a whole block for one query, in shared memory, after a barrier: every thread may read.
template <int kDim>
struct BlockSum {
  static constexpr int kWarps = kDecodeThreads / 32;
  float largest[kWarps], sum[kWarps], values[kWarps][kDim];

  template <int kPer>
  __device__ __forceinline__ void put(Running<kPer>& run) {
    constexpr int kLanes = kDim / kPer;
#pragma unroll
    for (int bit = kLanes; bit < 32; bit *= 2) run.join(bit);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane >= kLanes) return;
    if (lane == 0) largest[warp] = run.largest, sum[warp] = run.sum;
#pragma unroll
    for (int i = 0; i < kPer; ++i) values[warp][lane * kPer + i] = run.o[i];
  }
  __device__ __forceinline__ float top() const {
    float x = largest[0];
    for (int w = 1; w < kWarps; ++w) x = fmaxf(x, largest[w]);
    return x;
  }
  // Relative to the score `top`.
  __device__ __forceinline__ float sum_at(float at) const {
    float x = 0;
    for (int w = 0; w < kWarps; ++w) x += Running<1>::factor(largest[w], at) * sum[w];
    return x;
  }
  __device__ __forceinline__ float value_at(float at, int d) const {
    float x = 0;
    for (int w = 0; w < kWarps; ++w) x += Running<1>::factor(largest[w], at) * values[w][d];
    return x;
  }
};

// Waits for all threads of all blocks of a cluster; their shared-memory writes are visible then.
__device__ __forceinline__ void wait_for_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
}
// The float that block `rank` of the cluster has where this block has `own` (shared memory).
__device__ __forceinline__ float read_of(const float* own, int rank) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(own));
  uint32_t theirs;
  float x;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(theirs) : "r"(address), "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(x) : "r"(theirs) : "memory");
  return x;
}

// On Hopper the blocks of a head form a cluster and need no second kernel.
template <class T>
bool hopper_decode(const Decode<T>& d);

}  // namespace pyramoe::gpu::attention
