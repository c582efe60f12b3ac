// Causal self-attention, fused: the T x T scores exist only tile by tile (Dao et al., 2022).
#pragma once

#include "core/kernel.h"
#include "core/rng.h"

namespace pyramoe::kernels {

// Attention-probability dropout: p = 0 is off. The mask of (sequence, head, query, key) is drawn
// from its own counter: ((first_sequence + b) * H + h) * T * T + query * T + key. Of a tensor rank
// that has some of the heads, h counts from first_head, and heads is H of the whole layer.
struct AttentionDropout {
  double p = 0;
  RngKey key{};
  int64_t first_sequence = 0;
  int64_t first_head = 0, heads = 0;  // heads = 0: those of the tensor are all
};

// y = softmax(q k^T / sqrt(Dh), causal) v per sequence and head.
//   qkv (B, T, 3, H, Dh), y (B, T, H * Dh), lse (B, H, T) f32 or f64: log-sum-exp of each row
PM_KERNEL(attention_forward,
          (const Tensor& qkv, const AttentionDropout& dropout, Tensor& y, Tensor& lse))
// dqkv (B, T, 3, H, Dh) from dy (B, T, H * Dh) and what the forward pass saved.
PM_KERNEL(attention_backward, (const Tensor& dy, const Tensor& qkv, const Tensor& y,
                               const Tensor& lse, const AttentionDropout& dropout, Tensor& dqkv))
// Writes the new keys and values at positions lengths[b] ... lengths[b] + M - 1 of the cache, then
// attends from each new token to all tokens up to itself. `lengths` is not advanced. A token's
// result is the same bits as in attention_forward over the whole sequence.
//   qkv (B, M, 3, H, Dh), lengths (B) i32, cache (B, T_max, 2, H, Dh), y (B, M, H * Dh)
PM_KERNEL(attention_cached, (const Tensor& qkv, const Tensor& lengths, Tensor& cache, Tensor& y))

}  // namespace pyramoe::kernels
