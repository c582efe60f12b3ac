// A decode step in one kernel: the blocks of a head are a cluster and read each other's sums.
//
// Eight blocks share a head; block r takes chunks r, r + 8, ... of 64 keys in rising order, asking
// for the next chunk before it works on the present one. What a token sums in which order follows
// from positions alone. At the end the blocks read the eight partial sums from each other's shared
// memory, an eighth of the columns each: no scratch in device memory, no second launch.
#include "cuda/attention_decode.cuh"

namespace pyramoe::gpu::attention {
namespace {

constexpr int kCluster = 8;

template <int kDim, int kQueries>
struct ClusterSum {
  float largest[kQueries], sum[kQueries], values[kQueries][kDim];
};

template <class T, int kLanes, int kQueries>
__global__ void __launch_bounds__(kDecodeThreads)
    hopper_decode_kernel(const __grid_constant__ Decode<T> d) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int kPer = Chunk<T, kLanes>::kPer, kDim = Chunk<T, kLanes>::kDim;
  const int rank = blockIdx.x, h = blockIdx.y, b = blockIdx.z, length = d.f.lengths[b];
  const int keys = min(length + d.f.queries, d.f.capacity), queries = d.f.queries;
  const float scale = d.f.scale * kLog2e;
  Running<kPer> run[kQueries];
  Vec<T> q[kQueries];
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    const int64_t token = static_cast<int64_t>(b) * queries + min(i, queries - 1);
    q[i] = load_vec(d.qkv + (3 * token * d.f.heads + h) * kDim + threadIdx.x % kLanes * kPer);
  }
  Chunk<T, kLanes> now, next;
  if (kQueries == 1) next.load(d, b, h, rank * kChunk, length, keys);
  for (int k0 = rank * kChunk; k0 < keys; k0 += kCluster * kChunk) {
    if (kQueries == 1) {
      now = next;
      next.load(d, b, h, k0 + kCluster * kChunk, length, keys);
    } else {  // their sums fill the registers
      now.load(d, b, h, k0, length, keys);
    }
    now.append(d, b, h, k0, length, keys);
#pragma unroll
    for (int i = 0; i < kQueries; ++i) {
      run[i].step(now, q[i], scale, min(length + i + 1, keys) - k0);
    }
  }
  __shared__ BlockSum<kDim> block;
  __shared__ ClusterSum<kDim, kQueries> mine;
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    block.put(run[i]);
    __syncthreads();
    const float top = block.top();
    for (int c = threadIdx.x; c < kDim; c += kDecodeThreads) {
      mine.values[i][c] = block.value_at(top, c);
    }
    if (threadIdx.x == 0) mine.largest[i] = top, mine.sum[i] = block.sum_at(top);
    __syncthreads();
  }
  wait_for_cluster();
  constexpr int kColumns = kDim / kCluster;
  for (int i = threadIdx.x; i < kColumns * kQueries; i += kDecodeThreads) {
    const int query = i / kColumns, column = rank * kColumns + i % kColumns;
    if (query >= queries) break;
    float top = -INFINITY, sum = 0, x = 0, largest[kCluster];
#pragma unroll
    for (int r = 0; r < kCluster; ++r) {
      largest[r] = read_of(&mine.largest[query], r);
      top = fmaxf(top, largest[r]);
    }
#pragma unroll
    for (int r = 0; r < kCluster; ++r) {
      const float weight = Running<1>::factor(largest[r], top);
      sum = fmaf(weight, read_of(&mine.sum[query], r), sum);
      x = fmaf(weight, read_of(&mine.values[query][column], r), x);
    }
    d.f.y.head(b, h, kDim)[query * d.f.y.row + column] = from_float<T>(x / sum);
  }
  wait_for_cluster();  // nobody leaves while its shared memory is read
#endif
}

template <class T, int kLanes, int kQueries>
void launch(const Decode<T>& d) {
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = kCluster, cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim =
      dim3(kCluster, static_cast<unsigned>(d.f.heads), static_cast<unsigned>(d.f.batch));
  config.blockDim = dim3(kDecodeThreads);
  config.stream = stream();
  config.attrs = &cluster, config.numAttrs = 1;
  PM_CUDA(cudaLaunchKernelEx(&config, &hopper_decode_kernel<T, kLanes, kQueries>, d));
  PM_LAUNCHED();
}

template <class T, int kLanes>
bool launch(const Decode<T>& d) {
  if (d.f.queries == 1) {
    launch<T, kLanes, 1>(d);
  } else {
    launch<T, kLanes, kDecodeMaxQueries>(d);
  }
  return true;
}

}  // namespace

template <class T>
bool hopper_decode(const Decode<T>& d) {
  switch (d.f.dim * static_cast<int>(sizeof(T))) {
    case 64:
      return launch<T, 4>(d);
    case 128:
      return launch<T, 8>(d);
    case 256:
      return launch<T, 16>(d);
    default:
      return false;  // two chunks of wider rows do not fit the registers
  }
}

template bool hopper_decode(const Decode<float>&);
template bool hopper_decode(const Decode<Bf16>&);

}  // namespace pyramoe::gpu::attention
