// Attention of a decode step: few queries, many keys; a matter of reading the cache at full speed.
//
// Keys are cut into chunks of 64 (attention_decode.cuh), each a block of its own, so one sequence
// already fills the GPU. A block leaves largest score, sum and weighted values of its chunk; a
// second kernel adds the chunks in rising order. Hopper does it in one
// (attention_hopper_decode.cu).
#include "cuda/attention_decode.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vec.cuh"

namespace pyramoe::gpu::attention {
namespace {

constexpr int kMergeThreads = 256;

// What a chunk leaves for one query: scores in units of log2.
struct Partial {
  int chunks;
  float* largest;  // (B, H, queries, chunks)
  float* sum;      // the same
  float* values;   // (B, H, queries, chunks, Dh)
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

template <class T, int kLanes>
__global__ void __launch_bounds__(kDecodeThreads)
    split_kernel(const __grid_constant__ Decode<T> d, const __grid_constant__ Partial part) {
  constexpr int kPer = Chunk<T, kLanes>::kPer, kDim = Chunk<T, kLanes>::kDim;
  const int k0 = blockIdx.x * kChunk, h = blockIdx.y, b = blockIdx.z, length = d.f.lengths[b];
  const int keys = min(length + d.f.queries, d.f.capacity);
  if (k0 >= keys) return;
  Chunk<T, kLanes> chunk;
  chunk.load(d, b, h, k0, length, keys);
  chunk.append(d, b, h, k0, length, keys);
  __shared__ BlockSum<kDim> block;
  for (int query = 0; query < d.f.queries; ++query) {
    const int64_t token = static_cast<int64_t>(b) * d.f.queries + query;
    const Vec<T> q =
        load_vec(d.qkv + (3 * token * d.f.heads + h) * kDim + threadIdx.x % kLanes * kPer);
    Running<kPer> run;
    run.step(chunk, q, d.f.scale * kLog2e, min(length + query + 1, keys) - k0);
    block.put(run);
    __syncthreads();
    const float top = block.top();
    const int64_t row =
        ((static_cast<int64_t>(b) * d.f.heads + h) * d.f.queries + query) * part.chunks +
        blockIdx.x;
    for (int i = threadIdx.x; i < kDim; i += kDecodeThreads) {
      part.values[row * kDim + i] = block.value_at(top, i);
    }
    if (threadIdx.x == 0) part.largest[row] = top, part.sum[row] = block.sum_at(top);
    __syncthreads();
  }
}

// One block a (sequence, head, query): chunks in rising order in each of a few groups, then the
// groups in order.
template <class T>
__global__ void __launch_bounds__(kMergeThreads)
    merge_kernel(const __grid_constant__ Decode<T> d, const __grid_constant__ Partial part) {
  extern __shared__ float weights[];  // (chunks), then (groups, Dh)
  __shared__ float scratch[kWarp];
  const int query = blockIdx.x % d.f.queries;
  const int64_t head = blockIdx.x / d.f.queries, b = head / d.f.heads;
  const int keys = min(d.f.lengths[b] + query + 1, d.f.capacity);
  const int chunks = (keys + kChunk - 1) / kChunk;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * part.chunks;
  float top = -INFINITY;
  for (int c = threadIdx.x; c < chunks; c += kMergeThreads) {
    top = fmaxf(top, part.largest[row + c]);
  }
  top = block_max(top, scratch);
  float sum = 0;
  for (int c = threadIdx.x; c < chunks; c += kMergeThreads) {
    const float w = exp2f(part.largest[row + c] - top);
    weights[c] = w;
    sum += w * part.sum[row + c];
  }
  __syncthreads();
  sum = block_sum(sum, scratch);
  __syncthreads();
  const int quads = d.f.dim / 4, groups = kMergeThreads / quads;
  const int group = threadIdx.x / quads, quad = threadIdx.x % quads;
  float* const group_values = weights + part.chunks;
  if (group < groups) {
    float4 x = {0, 0, 0, 0};
#pragma unroll 8
    for (int c = group; c < chunks; c += groups) {
      const float4 y =
          *reinterpret_cast<const float4*>(part.values + (row + c) * d.f.dim + 4 * quad);
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
void split_and_merge(const Decode<T>& d) {
  const Forward<T>& f = d.f;
  Partial part{};
  part.chunks = static_cast<int>(ceil_div(f.capacity, kChunk));
  const int64_t rows = static_cast<int64_t>(f.batch) * f.heads * f.queries * part.chunks;
  const Scratch scratch(rows * (f.dim + 2) * static_cast<int64_t>(sizeof(float)));
  part.values = scratch.data<float>();
  part.largest = part.values + rows * f.dim;
  part.sum = part.largest + rows;
  split_kernel<T, kLanes><<<dim3(static_cast<unsigned>(part.chunks), static_cast<unsigned>(f.heads),
                                 static_cast<unsigned>(f.batch)),
                            kDecodeThreads, 0, stream()>>>(d, part);
  PM_LAUNCHED();
  const int groups = kMergeThreads / (f.dim / 4);
  const int bytes = (part.chunks + groups * f.dim) * static_cast<int>(sizeof(float));
  allow_shared_memory(reinterpret_cast<const void*>(merge_kernel<T>), bytes);
  merge_kernel<T><<<static_cast<unsigned>(f.batch * f.heads * f.queries), kMergeThreads,
                    static_cast<size_t>(bytes), stream()>>>(d, part);
  PM_LAUNCHED();
}

}  // namespace

template <class T>
bool decode(const Forward<T>& f, const T* qkv, T* cache) {
  const Decode<T> d{f, qkv, cache};
  const bool aligned = reinterpret_cast<uintptr_t>(qkv) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(cache) % 16 == 0 && f.batch < 65536 &&
                       f.heads < 65536;
  if (f.queries <= kDecodeMaxQueries && aligned) {
    if (has_hopper_kernels() && hopper_decode(d)) return true;
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
