// The fused router's forward kernel: a block takes 128 tokens from features to choices.
//
// Tokens and the three weight planes stream through shared memory, several stages deep, by 16-byte
// asynchronous copies; mma.sync multiplies a stage while the next ones arrive. The tensor cores
// truncate when they add, so the sums of 64 features leave them and are added in f32 by the FMA
// units: logits are as good as an f32 product's, and a token's do not depend on its neighbours.
// The logits of the tile then pass through p (written and read by this block alone, so from the
// cache), and eight lanes a token make probabilities and choices of them: no launch in between.
#include "cuda/launch.cuh"
#include "cuda/mma.cuh"
#include "cuda/moe_router.cuh"

namespace pyramoe::gpu {
namespace {

constexpr int kThreads = 256;  // eight warps: four of 32 tokens, times two halves of the experts
constexpr int kRows = 128;     // tokens of a block
constexpr int kDepth = 64;     // features of a stage: whole 128-byte lines of a token
constexpr int kPlanes = 3;
constexpr int kStride = kDepth + 8;  // 16 bytes of padding: eight rows of an ldmatrix in all banks
constexpr int kRowStep = kThreads / (kDepth / 8);  // rows that the block copies at once

template <int kWidth>
constexpr int kStageElements = (kRows + kPlanes * kWidth) * kStride;
constexpr int stages(int width) { return width <= 64 ? 4 : 3; }  // what shared memory holds
template <int kWidth>
constexpr int kSharedBytes =
    stages(kWidth) * kStageElements<kWidth>* static_cast<int>(sizeof(Bf16));

struct Task {
  const Bf16 *x, *planes;
  int64_t rows, d;
};

// Features [k, k + 64) of the block's tokens and of experts [e0, e0 + kWidth) in all planes.
template <int kWidth>
__device__ __forceinline__ void load_stage(const Task& t, Bf16* stage, int64_t n0, int e0,
                                           int64_t k, int experts) {
  const int first = static_cast<int>(threadIdx.x) / (kDepth / 8);
  const int c = static_cast<int>(threadIdx.x) % (kDepth / 8) * 8;
  const bool inside = k + c < t.d;
#pragma unroll
  for (int r = first; r < kRows; r += kRowStep) {
    const bool real = inside && n0 + r < t.rows;
    copy_async(stage + r * kStride + c, real ? t.x + (n0 + r) * t.d + k + c : t.x, real);
  }
#pragma unroll
  for (int r = first; r < kPlanes * kWidth; r += kRowStep) {
    const int plane = r / kWidth, e = e0 + r % kWidth;
    const bool real = inside && e < experts;
    const int64_t row = static_cast<int64_t>(plane) * experts + e;
    copy_async(stage + (kRows + r) * kStride + c, real ? t.planes + row * t.d + k + c : t.planes,
               real);
  }
}

// Two bands of 16 tokens, kGroups groups of 8 experts: a lane holds experts 2 (lane % 4) + {0, 1}
// of tokens lane / 4 and lane / 4 + 8 of each.
template <int kGroups>
using Sums = float[2][kGroups][4];

// sums += the products of one stage.
template <int kWidth>
__device__ __forceinline__ void add_stage(const Bf16* stage, int tokens, int columns,
                                          Sums<kWidth / 16>& sums) {
  const int lane = static_cast<int>(threadIdx.x % kWarp), r = lane % 8, m = lane / 8;
  Sums<kWidth / 16> part = {};
#pragma unroll
  for (int k = 0; k < kDepth; k += 16) {
    uint32_t a[2][4];
#pragma unroll
    for (int band = 0; band < 2; ++band) {
      load_matrices(a[band],
                    stage + (tokens + band * 16 + m % 2 * 8 + r) * kStride + k + m / 2 * 8);
    }
#pragma unroll
    for (int plane = kPlanes - 1; plane >= 0; --plane) {  // the small ones first
#pragma unroll
      for (int n = 0; n < kWidth / 2; n += 16) {
        uint32_t b[4];  // experts n..n+7 at k, k+8; experts n+8..n+15 at k, k+8
        const int row = kRows + plane * kWidth + columns + n + m / 2 * 8 + r;
        load_matrices(b, stage + row * kStride + k + m % 2 * 8);
#pragma unroll
        for (int band = 0; band < 2; ++band) {
          mma(part[band][n / 8], a[band], b[0], b[1]);
          mma(part[band][n / 8 + 1], a[band], b[2], b[3]);
        }
      }
    }
  }
#pragma unroll
  for (int band = 0; band < 2; ++band) {
#pragma unroll
    for (int g = 0; g < kWidth / 16; ++g) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[band][g][i] += part[band][g][i];
    }
  }
}

// Logits of the block's tokens with experts [e0, e0 + kWidth), into out.p.
template <int kWidth>
__device__ __forceinline__ void logits_tile(const Task& t, Bf16* shared, int64_t n0, int e0,
                                            const ChoiceRows& out) {
  const int warp = static_cast<int>(threadIdx.x / kWarp),
            lane = static_cast<int>(threadIdx.x % kWarp);
  const int tokens = warp % 4 * 32, columns = warp / 4 * (kWidth / 2);
  constexpr int kStages = stages(kWidth);
  const int64_t depths = (t.d + kDepth - 1) / kDepth;
  const auto stage = [&](int64_t i) { return shared + i % kStages * kStageElements<kWidth>; };
  Sums<kWidth / 16> sums = {};
  for (int64_t i = 0; i < kStages - 1; ++i) {
    if (i < depths) load_stage<kWidth>(t, stage(i), n0, e0, i * kDepth, out.experts);
    commit_copies();
  }
  for (int64_t i = 0; i < depths; ++i) {
    wait_copies<kStages - 2>();
    __syncthreads();  // stage i is there for all, and nobody reads stage i - 1 any more
    const int64_t next = i + kStages - 1;
    if (next < depths) load_stage<kWidth>(t, stage(next), n0, e0, next * kDepth, out.experts);
    commit_copies();
    add_stage<kWidth>(stage(i), tokens, columns, sums);
  }
  __syncthreads();
#pragma unroll
  for (int band = 0; band < 2; ++band) {
#pragma unroll
    for (int g = 0; g < kWidth / 16; ++g) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t n = n0 + tokens + band * 16 + lane / 4 + i / 2 * 8;
        const int e = e0 + columns + g * 8 + lane % 4 * 2 + i % 2;
        if (n < t.rows && e < out.experts) out.p[n * out.experts + e] = sums[band][g][i];
      }
    }
  }
}

template <int kWidth, int kPer>
__global__ void __launch_bounds__(kThreads, 1) router_kernel(Task t, ChoiceRows out) {
  extern __shared__ __align__(16) unsigned char memory[];
  const int64_t n0 = blockIdx.x * static_cast<int64_t>(kRows);
  for (int e0 = 0; e0 < out.experts; e0 += kWidth) {
    logits_tile<kWidth>(t, reinterpret_cast<Bf16*>(memory), n0, e0, out);
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x % kTokenLanes);
  constexpr int kAtOnce = kPer <= 16 ? 4 : 1;  // tokens of eight lanes whose logits travel together
  for (int first = 0; first < kRows; first += kAtOnce * kThreads / kTokenLanes) {
    const int64_t n = n0 + first + threadIdx.x / kTokenLanes;
    float logit[kAtOnce][kPer];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t token = n + i * (kThreads / kTokenLanes);
#pragma unroll
      for (int u = 0; u < kPer; ++u) {
        const int e = u * kTokenLanes + lane;
        const bool there = token < t.rows && e < out.experts;
        logit[i][u] = there ? out.p[token * out.experts + e] : -INFINITY;
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t token = n + i * (kThreads / kTokenLanes);
      choose(logit[i], out, token, token < t.rows);
    }
  }
}

}  // namespace

bool router_tiles_fit(int64_t experts) {
  const int bytes = experts <= 32   ? kSharedBytes<32>
                    : experts <= 64 ? kSharedBytes<64>
                                    : kSharedBytes<128>;
  int device = 0, most = 0;
  PM_CUDA(cudaGetDevice(&device));
  PM_CUDA(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return experts <= kMostChooseExperts && bytes <= most;
}

void router_tiles(const Bf16* x, const Bf16* planes, int64_t rows, int64_t d,
                  const ChoiceRows& out) {
  const auto launch = [&](auto* kernel, int bytes) {
    allow_shared_memory(reinterpret_cast<const void*>(kernel), bytes);
    kernel<<<grid(rows, kRows), kThreads, bytes, stream()>>>(Task{x, planes, rows, d}, out);
    PM_LAUNCHED();
  };
  if (out.experts <= 32) {
    launch(&router_kernel<32, 4>, kSharedBytes<32>);
  } else if (out.experts <= 64) {
    launch(&router_kernel<64, 8>, kSharedBytes<64>);
  } else if (out.experts <= 128) {
    launch(&router_kernel<128, 16>, kSharedBytes<128>);
  } else if (out.experts <= 256) {
    launch(&router_kernel<128, 32>, kSharedBytes<128>);
  } else {
    launch(&router_kernel<128, 64>, kSharedBytes<128>);
  }
}

}  // namespace pyramoe::gpu
