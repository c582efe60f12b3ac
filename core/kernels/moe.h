// Mixture-of-experts kernels: noise, choices, capacity, segment rows, losses, dispatch.
//
// Letters: N tokens, D features, E experts, k choices a token, R segment rows, G routing groups.
// Routing tensors (logits, scores, weights) are f64 where the model is, else f32. A row's global
// token is first_row + its index: random numbers are keyed by it, so they never depend on how the
// batch was cut. Nothing here uses atomics; every sum has one order.
#pragma once

#include "core/kernel.h"
#include "core/rng.h"

namespace pyramoe::kernels {

// ---- noise

// y = x * u, u uniform in [1 - width, 1 + width), drawn per element; dx from dy is the same call.
PM_KERNEL(jitter, (const Tensor& x, double width, const RngKey& key, int64_t first_row, Tensor& y))
// y = x + g, g standard Gumbel per element, so that argmax y is a draw from softmax(x).
//   x, y (N, E)
PM_KERNEL(add_gumbel, (const Tensor& x, const RngKey& key, int64_t first_row, Tensor& y))

// ---- scores and choices

// y = 1 / (1 + exp(-x)); a row that holds a NaN becomes all NaN, as softmax makes it.   (N, E)
PM_KERNEL(sigmoid_rows_forward, (const Tensor& x, Tensor& y))
PM_KERNEL(sigmoid_rows_backward, (const Tensor& dy, const Tensor& y, Tensor& dx))
// y = x / max(sum of the row, eps of the dtype), x >= 0.   (N, E)
PM_KERNEL(normalize_rows_forward, (const Tensor& x, Tensor& y))
PM_KERNEL(normalize_rows_backward, (const Tensor& dy, const Tensor& x, const Tensor& y, Tensor& dx))
// The k experts with the largest score + bias, best first, ties to the lower id. A row that holds
// a NaN chooses 0 ... k - 1: ids stay in range, and the NaN shows in the weights.
//   score (N, E), bias (E) or undefined, expert (N, k) i32
PM_KERNEL(top_k, (const Tensor& score, const Tensor& bias, Tensor& expert))
// Choice j of global token t is expert (t * k + j) mod E: perfect balance, for benchmarks.
PM_KERNEL(round_robin, (int64_t first_row, int64_t experts, Tensor& expert))
// weight[n, j] = score[n, expert[n, j]].   score (N, E), weight (N, k)
PM_KERNEL(take_forward, (const Tensor& score, const Tensor& expert, Tensor& weight))
PM_KERNEL(take_backward, (const Tensor& dweight, const Tensor& expert, Tensor& dscore))
// kept = weight where row >= 0, else 0; divided by max(sum of the kept, eps) if `renormalize`.
//   weight, kept (N, k), row (N, k) i32
PM_KERNEL(keep_weights_forward,
          (const Tensor& weight, const Tensor& row, bool renormalize, Tensor& kept))
PM_KERNEL(keep_weights_backward, (const Tensor& dkept, const Tensor& weight, const Tensor& row,
                                  bool renormalize, Tensor& dweight))
// bias[e] += rate * sign(mean load - load[e]).   load (E) i64, bias (E)
// Source: Wang et al., 2024 (auxiliary-loss-free load balancing), algorithm 1.
PM_KERNEL(balance_bias_step, (const Tensor& load, double rate, Tensor& bias))

// ---- capacity and rows

// Who keeps a place when an expert is chosen more than `capacity` times in a group.
enum class DropBy {
  position,     // first choices in token order, then second choices, …
  probability,  // the largest `score`, ties to the lower token
  random,       // the largest number drawn for (global token, expert), ties to the lower token
};
// kept[n, j] = 1 if choice j of token n keeps its place, else 0. A group is `group_rows`
// consecutive rows.   expert (N, k) i32 in [0, E), score (N, k), kept (N, k) u8
// Source: GShard, algorithm 1; DeepSpeed-MoE, random token selection.
PM_KERNEL(keep_within_capacity,
          (const Tensor& expert, const Tensor& score, int64_t experts, int64_t group_rows,
           int64_t capacity, DropBy order, const RngKey& key, int64_t first_row, Tensor& kept))
// A stable counting sort by (expert, token): row[n, j] is the segment row of a kept choice, -1 of a
// dropped one; expert e owns rows [offsets[e], offsets[e + 1]); load counts before drops.
//   expert (N, k) i32, kept (N, k) u8 or undefined = all, row (N, k), offsets (E + 1), load (E) i32
PM_KERNEL(assign_rows,
          (const Tensor& expert, const Tensor& kept, Tensor& row, Tensor& offsets, Tensor& load))

// keep_within_capacity by position, then assign_rows, for one choice a token: the order of places
// is the order of rows then, so one sort does both.   expert, row (N, 1)
PM_KERNEL(assign_rows_by_position, (const Tensor& expert, int64_t group_rows, int64_t capacity,
                                    Tensor& row, Tensor& offsets, Tensor& load))

// ---- losses

// loss = mean over groups of E * sum_e mean_n(p[n, e]) * share[g, e], where share is e's part of
// the group's first choices, or of all choices; 1 when p is uniform.
//   p (N, E), expert (N, k) i32, loss (1), share (G, E)
// Source: GShard; Switch Transformer, equation 4.
PM_KERNEL(balance_loss_forward, (const Tensor& p, const Tensor& expert, int64_t group_rows,
                                 bool all_choices, Tensor& loss, Tensor& share))
// dp[n, e] = dloss * E / N * share[g(n), e]; the counts are constants.
PM_KERNEL(balance_loss_backward,
          (const Tensor& dloss, const Tensor& share, int64_t group_rows, Tensor& dp))
// loss = mean_n lse[n]^2, lse = log(sum_e exp(logits)).   logits (N, E), loss (1), lse (N)
// Source: ST-MoE, equation 5.
PM_KERNEL(z_loss_forward, (const Tensor& logits, Tensor& loss, Tensor& lse))
PM_KERNEL(z_loss_backward,
          (const Tensor& dloss, const Tensor& logits, const Tensor& lse, Tensor& dlogits))

// ---- the router in one go: a softmax gate without noise, its losses, its gradients

// p = softmax(x w^T), lse = log(sum_e exp(x w^T)), the k experts with the largest logits (as top_k
// chooses) and their p. Logits are sums in f32 or wider of x and w as they are.
//   x (N, D), w (E, D), p (N, E), lse (N), expert (N, k) i32, weight (N, k); all but x are f32, f64
//   for an f64 x
PM_KERNEL(router_forward, (const Tensor& x, const Tensor& w, Tensor& p, Tensor& lse, Tensor& expert,
                           Tensor& weight))
// balance_loss_forward of p, and z = mean_n lse[n]^2 unless undefined.   balance, z (1)
PM_KERNEL(router_losses,
          (const Tensor& p, const Tensor& lse, const Tensor& expert, int64_t group_rows,
           bool all_choices, Tensor& balance, Tensor& share, Tensor& z))
// dlogits from the gradients of weight, balance and z (undefined: zero), then dx (+)= dlogits w and
// dw (+)= dlogits^T x; an undefined dx or dw is left out.
//   dweight (N, k), dbalance, dz (1), share (G, E) of groups of group_rows, dx (N, D), dw (E, D)
PM_KERNEL(router_backward,
          (const Tensor& dweight, const Tensor& dbalance, const Tensor& dz, const Tensor& p,
           const Tensor& lse, const Tensor& expert, const Tensor& share, int64_t group_rows,
           const Tensor& x, const Tensor& w, bool add_dx, bool add_dw, Tensor& dx, Tensor& dw))

// ---- tokens to segments and back

// y[row[n, j], :] = x[n, :]; rows that no choice owns are not written.   x (N, D), y (R, D)
PM_KERNEL(to_segments_forward, (const Tensor& x, const Tensor& row, Tensor& y))
// dx[n, :] = sum over kept j, in order, of dy[row[n, j], :]
PM_KERNEL(to_segments_backward, (const Tensor& dy, const Tensor& row, Tensor& dx))
// y[n, :] = sum over kept j, in order, of weight[n, j] * x[row[n, j], :].   x (R, D), y (N, D)
PM_KERNEL(from_segments_forward,
          (const Tensor& x, const Tensor& weight, const Tensor& row, Tensor& y))
// y[n, :] = residual[n, :] + that sum, rounded once.   residual (N, D)
PM_KERNEL(from_segments_add_forward, (const Tensor& x, const Tensor& weight, const Tensor& row,
                                      const Tensor& residual, Tensor& y))
// dx[row[n, j], :] = weight[n, j] * dy[n, :];  dweight[n, j] = dy[n, :] . x[row[n, j], :], 0 where
// dropped.
PM_KERNEL(from_segments_backward, (const Tensor& dy, const Tensor& x, const Tensor& weight,
                                   const Tensor& row, Tensor& dx, Tensor& dweight))

// ---- the dense one-hot form, kept as reference and baseline

// slot[n, j] = expert * width + place within the expert's segment, -1 where dropped.
//   expert, row, slot (N, k) i32, offsets (E + 1) i32
PM_KERNEL(padded_slots, (const Tensor& expert, const Tensor& row, const Tensor& offsets,
                         int64_t width, Tensor& slot))
// y[n, slot[n, j]] = weight[n, j], or 1 without weights; 0 elsewhere.   weight (N, k), y (N, M)
PM_KERNEL(one_hot_forward, (const Tensor& weight, const Tensor& slot, Tensor& y))
// dweight[n, j] = dy[n, slot[n, j]], 0 where dropped.
PM_KERNEL(one_hot_backward, (const Tensor& dy, const Tensor& slot, Tensor& dweight))

// ---- residual MoE

// y[n, :] = share[n, 0] * a[n, :] + share[n, 1] * b[n, :].   a, b, y (N, D), share (N, 2)
PM_KERNEL(mix_forward, (const Tensor& a, const Tensor& b, const Tensor& share, Tensor& y))
PM_KERNEL(mix_backward, (const Tensor& dy, const Tensor& a, const Tensor& b, const Tensor& share,
                         Tensor& da, Tensor& db, Tensor& dshare))

}  // namespace pyramoe::kernels
