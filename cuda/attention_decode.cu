// Attention of a decode step: few queries, many keys; a matter of reading the cache at full speed.
//
// Keys are cut into chunks of 64, each a block of its own, so one sequence already fills the GPU.
// A block asks for all its keys and values (16 bytes a thread, every load in flight) before it uses
// the first, and leaves largest score, sum and weighted values of its chunk; a second kernel adds
// the chunks in rising order. Chunks start at multiples of 64 whatever the length: a token's result
// does not depend on who travels with it. The new keys and values are taken from qkv, and written
// to the cache by the block that meets them.
#include "cuda/attention.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vec.cuh"

namespace pyramoe::gpu::attention {
namespace {

constexpr int kChunk = 64;  // keys of a block
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMaxQueries = 4;  // more (a prompt): the tile kernels
constexpr int kMergeThreads = 256;
constexpr float kLog2e = 1.4426950408889634f;

// What a chunk leaves for one query: scores in units of log2.
struct Partial {
  float* largest;  // (B, H, queries, chunks)
  float* sum;      // the same
  float* values;   // (B, H, queries, chunks, Dh)
};

template <class T>
struct Decode {
  Forward<T> f;
  const T* qkv;  // (B, queries, 3, H, Dh)
  T* cache;      // (B, capacity, 2, H, Dh)
  int chunks;
  Partial part;
};

template <class T>
__global__ void append_kernel(const __grid_constant__ Decode<T> d) {
  const int64_t width = static_cast<int64_t>(d.f.heads) * d.f.dim;
  const int64_t count = static_cast<int64_t>(d.f.batch) * d.f.queries * 2 * width;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    const int64_t row = i / (2 * width), b = row / d.f.queries;
    const int64_t t = d.f.lengths[b] + row % d.f.queries;
    if (t >= d.f.capacity) continue;  // the caller's mistake; at least nothing else is harmed
    d.cache[(b * d.f.capacity + t) * 2 * width + i % (2 * width)] =
        d.qkv[(3 * row + 1) * width + i % (2 * width)];
  }
}

// kLanes threads share a key: 16 bytes of it each.
template <class T, int kLanes>
__global__ void __launch_bounds__(kThreads) split_kernel(const __grid_constant__ Decode<T> d) {
  constexpr int kPer = 16 / sizeof(T);  // elements a thread
  constexpr int kDim = kLanes * kPer;
  constexpr int kAtOnce = kThreads / kLanes;  // keys the block reads at once
  constexpr int kKeys = kChunk / kAtOnce;     // keys of a thread
  const int k0 = blockIdx.x * kChunk, h = blockIdx.y, b = blockIdx.z, length = d.f.lengths[b];
  const int keys = min(length + d.f.queries, d.f.capacity);
  if (k0 >= keys) return;
  const int lane = threadIdx.x % kLanes, own = threadIdx.x / kLanes;
  const int64_t width = static_cast<int64_t>(d.f.heads) * kDim, column = h * kDim + lane * kPer;
  Vec<T> k[kKeys], v[kKeys];
#pragma unroll
  for (int j = 0; j < kKeys; ++j) {
    const int t = k0 + j * kAtOnce + own;
    if (t < length) {
      const T* row = d.cache + (static_cast<int64_t>(b) * d.f.capacity + t) * 2 * width + column;
      k[j] = load_vec(row), v[j] = load_vec(row + width);
    } else if (t < keys) {
      const int64_t token = static_cast<int64_t>(b) * d.f.queries + t - length;
      const T* row = d.qkv + (3 * token + 1) * width + column;
      k[j] = load_vec(row), v[j] = load_vec(row + width);
      T* to = d.cache + (static_cast<int64_t>(b) * d.f.capacity + t) * 2 * width + column;
      store_vec(to, k[j]), store_vec(to + width, v[j]);
    } else {
      k[j] = v[j] = Vec<T>{};
    }
  }
  __shared__ float warp_largest[kWarps], warp_sum_of[kWarps], warp_values[kWarps][kDim];
  const int warp = threadIdx.x / kWarp;
  for (int query = 0; query < d.f.queries; ++query) {
    const Vec<T> q =
        load_vec(d.qkv + (static_cast<int64_t>(b) * d.f.queries + query) * 3 * width + column);
    float s[kKeys], top = -INFINITY;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kPer; ++i) sum = fmaf(to_float(q.v[i]), to_float(k[j].v[i]), sum);
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
      }
      const bool seen = k0 + j * kAtOnce + own <= length + query;
      s[j] = seen ? sum * (d.f.scale * kLog2e) : -INFINITY;
      top = fmaxf(top, s[j]);
    }
#pragma unroll
    for (int step = kWarp / 2; step >= kLanes; step /= 2) {
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
    }
    const float base = top == -INFINITY ? 0.0f : top;  // a warp may see nothing
    float total = 0, o[kPer] = {};
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const float p = exp2f(s[j] - base);
      total += p;
#pragma unroll
      for (int i = 0; i < kPer; ++i) o[i] = fmaf(p, to_float(v[j].v[i]), o[i]);
    }
#pragma unroll
    for (int step = kWarp / 2; step >= kLanes; step /= 2) {
      total += __shfl_xor_sync(0xffffffffu, total, step);
#pragma unroll
      for (int i = 0; i < kPer; ++i) o[i] += __shfl_xor_sync(0xffffffffu, o[i], step);
    }
    if (threadIdx.x % kWarp < kLanes) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) warp_values[warp][lane * kPer + i] = o[i];
      if (lane == 0) warp_largest[warp] = top, warp_sum_of[warp] = total;
    }
    __syncthreads();
    float largest = warp_largest[0];
    for (int w = 1; w < kWarps; ++w) largest = fmaxf(largest, warp_largest[w]);
    // A later query of the step may see this chunk when an earlier one does not.
    const float origin = largest == -INFINITY ? 0.0f : largest;
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += exp2f(warp_largest[w] - origin) * warp_sum_of[w];
    const int64_t row =
        ((static_cast<int64_t>(b) * d.f.heads + h) * d.f.queries + query) * d.chunks + blockIdx.x;
    for (int i = threadIdx.x; i < kDim; i += kThreads) {
      float x = 0;
      for (int w = 0; w < kWarps; ++w) x += exp2f(warp_largest[w] - origin) * warp_values[w][i];
      d.part.values[row * kDim + i] = x;
    }
    if (threadIdx.x == 0) d.part.largest[row] = largest, d.part.sum[row] = sum;
    __syncthreads();
  }
}

// One block a (sequence, head, query): chunks in rising order in each of a few groups, then the
// groups in order.
template <class T>
__global__ void __launch_bounds__(kMergeThreads) merge_kernel(const __grid_constant__ Decode<T> d) {
  extern __shared__ float weights[];  // (chunks), then (groups, Dh)
  __shared__ float scratch[kWarp];
  const int query = blockIdx.x % d.f.queries;
  const int64_t head = blockIdx.x / d.f.queries, b = head / d.f.heads;
  const int keys = min(d.f.lengths[b] + query + 1, d.f.capacity);
  const int chunks = (keys + kChunk - 1) / kChunk;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * d.chunks;
  float top = -INFINITY;
  for (int c = threadIdx.x; c < chunks; c += kMergeThreads) {
    top = fmaxf(top, d.part.largest[row + c]);
  }
  top = block_max(top, scratch);
  float sum = 0;
  for (int c = threadIdx.x; c < chunks; c += kMergeThreads) {
    const float w = exp2f(d.part.largest[row + c] - top);
    weights[c] = w;
    sum += w * d.part.sum[row + c];
  }
  __syncthreads();
  sum = block_sum(sum, scratch);
  __syncthreads();
  const int quads = d.f.dim / 4, groups = kMergeThreads / quads;
  const int group = threadIdx.x / quads, quad = threadIdx.x % quads;
  float* const group_values = weights + d.chunks;
  if (group < groups) {
    float4 x = {0, 0, 0, 0};
#pragma unroll 8
    for (int c = group; c < chunks; c += groups) {
      const float4 y =
          *reinterpret_cast<const float4*>(d.part.values + (row + c) * d.f.dim + 4 * quad);
      const float w = weights[c];
      x.x = fmaf(w, y.x, x.x), x.y = fmaf(w, y.y, x.y);
      x.z = fmaf(w, y.z, x.z), x.w = fmaf(w, y.w, x.w);
    }
    float* to = group_values + group * d.f.dim + 4 * quad;
    to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
  }
  __syncthreads();
  T* y = d.f.y.head(b, head % d.f.heads, d.f.dim) + query * d.f.y.row;
  for (int i = threadIdx.x; i < d.f.dim; i += kMergeThreads) {
    float x = 0;
    for (int g = 0; g < groups; ++g) x += group_values[g * d.f.dim + i];
    y[i] = from_float<T>(x / sum);
  }
}

template <class T, int kLanes>
void split_and_merge(Decode<T> d) {
  const Forward<T>& f = d.f;
  d.chunks = static_cast<int>(ceil_div(f.capacity, kChunk));
  const int64_t rows = static_cast<int64_t>(f.batch) * f.heads * f.queries * d.chunks;
  Scratch scratch(rows * (f.dim + 2) * static_cast<int64_t>(sizeof(float)));
  d.part.values = scratch.data<float>();
  d.part.largest = d.part.values + rows * f.dim;
  d.part.sum = d.part.largest + rows;
  split_kernel<T, kLanes><<<dim3(static_cast<unsigned>(d.chunks), static_cast<unsigned>(f.heads),
                                 static_cast<unsigned>(f.batch)),
                            kThreads, 0, stream()>>>(d);
  PM_LAUNCHED();
  const int groups = kMergeThreads / (f.dim / 4);
  const int bytes = (d.chunks + groups * f.dim) * static_cast<int>(sizeof(float));
  allow_shared_memory(reinterpret_cast<const void*>(merge_kernel<T>), bytes);
  merge_kernel<T><<<static_cast<unsigned>(f.batch * f.heads * f.queries), kMergeThreads,
                    static_cast<size_t>(bytes), stream()>>>(d);
  PM_LAUNCHED();
}

}  // namespace

template <class T>
bool decode(const Forward<T>& f, const T* qkv, T* cache) {
  Decode<T> d{f, qkv, cache, 0, {}};
  const bool aligned = reinterpret_cast<uintptr_t>(qkv) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(cache) % 16 == 0 && f.batch < 65536 &&
                       f.heads < 65536;
  if (f.queries <= kMaxQueries && aligned) {
    switch (f.dim * static_cast<int>(sizeof(T))) {
      case 64:
        return split_and_merge<T, 4>(d), true;
      case 128:
        return split_and_merge<T, 8>(d), true;
      case 256:
        return split_and_merge<T, 16>(d), true;
      case 512:
        return split_and_merge<T, 32>(d), true;
      default:
        break;
    }
  }
  const int64_t count = static_cast<int64_t>(f.batch) * f.queries * 2 * f.heads * f.dim;
  append_kernel<T><<<grid(count, 256, 4096), 256, 0, stream()>>>(d);
  PM_LAUNCHED();
  return false;
}

template bool decode(const Forward<float>&, const float*, float*);
template bool decode(const Forward<Bf16>&, const Bf16*, Bf16*);

}  // namespace pyramoe::gpu::attention
