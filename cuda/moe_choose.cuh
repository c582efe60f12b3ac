// From a token's logits to its probabilities and choices, in registers.
//
// Eight lanes share a token, so a warp works on four at once and a reduction is three shuffles.
// Lane l holds experts l, l + 8, …; the k best are found one after another, each the best of those
// that come after the last one in the strict order "larger logit, then lower id".
#pragma once

#include <limits>

#include "cuda/reduce.cuh"

namespace pyramoe::gpu {

inline constexpr int kTokenLanes = 8;
inline constexpr int kMostChooseExperts = 512;

// Where a token's results go; rows of token n. All lanes of the warp call, with or without a token.
struct ChoiceRows {
  float* p;         // (N, E)
  float* lse;       // (N)
  int32_t* expert;  // (N, k)
  float* weight;    // (N, k)
  int experts, k;
};

template <class F>
__device__ __forceinline__ float token_reduce(float x, const F& f) {
#pragma unroll
  for (int step = 1; step < kTokenLanes; step *= 2) {
    x = f(x, __shfl_xor_sync(0xffffffffu, x, step));
  }
  return x;
}
__device__ __forceinline__ float token_sum(float x) {
  return token_reduce(x, [](float a, float b) { return a + b; });
}

// logit: -inf past the last expert.
template <int kPer>
__device__ __forceinline__ void choose(const float (&logit)[kPer], const ChoiceRows& out, int64_t n,
                                       bool real) {
  constexpr float kNegInf = -std::numeric_limits<float>::infinity();
  const int lane = static_cast<int>(threadIdx.x % kTokenLanes);
  float top = kNegInf, bad = 0;
#pragma unroll
  for (int u = 0; u < kPer; ++u) {
    top = fmaxf(top, logit[u]);
    if (logit[u] != logit[u]) bad = 1;
  }
  top = token_reduce(top, [](float a, float b) { return fmaxf(a, b); });
  bad = token_reduce(bad, [](float a, float b) { return fmaxf(a, b); });
  float sum = 0;
#pragma unroll
  for (int u = 0; u < kPer; ++u) sum += expf(logit[u] - top);
  sum = token_sum(sum);
  const float scale = 1.0f / sum;
  if (real) {
#pragma unroll
    for (int u = 0; u < kPer; ++u) {
      const int e = u * kTokenLanes + lane;
      if (e < out.experts) out.p[n * out.experts + e] = expf(logit[u] - top) * scale;
    }
    if (lane == 0) out.lse[n] = top + logf(sum);
  }
  float last = std::numeric_limits<float>::infinity();
  int last_id = -1;
  for (int j = 0; j < out.k; ++j) {
    float best = kNegInf;
    int best_id = std::numeric_limits<int>::max();
#pragma unroll
    for (int u = 0; u < kPer; ++u) {
      const float v = logit[u];
      const int e = u * kTokenLanes + lane;
      const bool after = v < last || (v == last && e > last_id);
      if (after && (v > best || (v == best && e < best_id))) best = v, best_id = e;
    }
#pragma unroll
    for (int step = 1; step < kTokenLanes; step *= 2) {
      const float v = __shfl_xor_sync(0xffffffffu, best, step);
      const int e = __shfl_xor_sync(0xffffffffu, best_id, step);
      if (v > best || (v == best && e < best_id)) best = v, best_id = e;
    }
    last = best, last_id = best_id;
    if (real && lane == 0) {  // a row with a NaN chooses 0 … k - 1, and its p are all NaN
      out.expert[n * out.k + j] = bad != 0 ? j : best_id;
      out.weight[n * out.k + j] = bad != 0 ? scale : expf(best - top) * scale;
    }
  }
}

}  // namespace pyramoe::gpu
