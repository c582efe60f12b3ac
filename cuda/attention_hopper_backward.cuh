// What the two kernels of Hopper's backward attention are given.
//
// attention_hopper_backward.cu says what is computed and prepares delta and lse2;
// attention_hopper_dkv.cu keeps keys at rest, attention_hopper_dq.cu queries.
#pragma once

#include "cuda/attention_hopper.cuh"
#include "cuda/attention_keep.cuh"

namespace pyramoe::gpu::attention {

struct BackwardArgs {
  Order order;
  int tokens, padded;
  float scale;
  const float* lse2;   // (B * H, padded): lse in units of log2; +inf behind the end, so that P = 0
  const float* delta;  // the same behind lse2: row sums of dy * y, times 1 - p; 0 behind the end
  Keep keep;
};

// The map of q, k, v (parts = 3) or of y (1) of a call, by boxes of `rows` tokens.
inline CUtensorMap map_of(const Backward<Bf16>& f, const void* x, int64_t parts, int rows) {
  return packed_map(x, f.batch, f.tokens, parts, f.heads, f.dim, rows);
}

// With kDrop as args.keep says, else nothing is dropped.
template <int kDim, bool kDrop>
void hopper_dkv(const Backward<Bf16>& f, const BackwardArgs& args);
template <int kDim, bool kDrop>
void hopper_dq(const Backward<Bf16>& f, const BackwardArgs& args);

}  // namespace pyramoe::gpu::attention
