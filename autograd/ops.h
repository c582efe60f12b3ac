// Index of the differentiable ops: one doc line each. Every op has a file of its stem in
// autograd/ops, kernels of the same stem in core/kernels, and a row in tests/ops (a test compares
// this list with the rows). Letters: N tokens, D features, V vocabulary, E experts, k choices,
// R segment rows, B sequences, T positions, H heads.
#pragma once

#include "autograd/var.h"
#include "core/kernels/attention.h"
#include "core/rng.h"

namespace pyramoe::ops {

// ---- elementwise
Var add(const Var& a, const Var& b);       // a + b, one shape
Var multiply(const Var& a, const Var& b);  // a * b, one shape
Var scale(const Var& x, double factor);    // factor * x
Var gelu(const Var& x);                    // tanh form
Var reshape(const Var& x, Shape shape);    // a view
Var cast(const Var& x, DType dtype);       // gradient is cast back

// ---- reduce
Var sum(const Var& x);   // all elements -> (1)
Var mean(const Var& x);  // all elements -> (1)
Var weighted_sum(
    const Vars& terms,
    const Tensor& weight);  // sum_i weight[i] terms[i] -> (1); weight (n) f64, read on the device

// ---- matmul
Var matmul(const Var& a, const Var& b);  // (M, K) (K, N) -> (M, N)
Var linear(const Var& x, const Var& w,
           const Var& bias);  // (N, K), (M, K), (M) or undefined -> (N, M)
Var linear_gelu(const Var& x, const Var& w, const Var& bias);  // gelu(linear(...)), one kernel
Var mlp(const Var& x, const Var& up, const Var& up_bias, const Var& down,
        const Var& down_bias);  // linear(linear_gelu(x, up), down); on a GPU it keeps gelu's
                                // input, not its output: one kernel of backward makes that again

// ---- softmax, layernorm
Var softmax(const Var& x);                                                            // last axis
Var layer_norm(const Var& x, const Var& weight, const Var& bias, double eps = 1e-5);  // last axis
Vars add_layer_norm(const Var& x, const Var& residual, const Var& weight, const Var& bias,
                    double eps = 1e-5);  // h = x + residual and layer_norm(h), in one pass

// ---- embedding
Var embedding(const Tensor& token, const Tensor& position, const Var& token_table,
              const Var& position_table);  // (N) i32 twice, (V, D), (T, D) -> (N, D)

// ---- attention
Var attention(
    const Var& qkv,
    const kernels::AttentionDropout& dropout);  // (B, T, 3, H, Dh) -> (B, T, H * Dh), causal

// ---- random
Var dropout(const Var& x, double p, const RngKey& key,
            int64_t first_row);  // (N, D); p = 0 is x itself

// ---- loss
Var cross_entropy(const Var& logits, const Tensor& target,
                  bool reuse_logits = false);  // mean over all N, in nats -> (1); a target < 0
                                               // adds 0; reuse_logits: backward overwrites
                                               // the logits' memory
Var head_loss(const Var& x, const Var& weight, const Tensor& target,
              int64_t chunk = 0);  // cross_entropy(linear(x, weight), target): (N, D), (V, D), (N)
                                   // i32 -> (1); logits of `chunk` rows exist at a time, 0 = of all
struct Teacher {
  Tensor x, weight;    // features (N, D') and head (V, D'), of the student's dtype
  double temperature;  // of both softmaxes
  Tensor share;        // (2) f64, read on the device: what cross-entropy and KD count
};
Vars head_distill_loss(
    const Var& x, const Var& weight, const Tensor& target, const Teacher& teacher,
    int64_t chunk = 0);  // head_loss with a teacher -> share[0] CE + share[1] KD, which alone has a
                         // gradient, and the means CE and KD, (1) each
Var distill_loss(const Var& student, const Tensor& teacher,
                 double temperature);  // mean T^2 KL(teacher || student) -> (1)

// ---- moe; row (N, k) i32 is the segment row of each choice, -1 where dropped
Var jitter(const Var& x, double width, const RngKey& key,
           int64_t first_row);     // x * U(1 - width, 1 + width); width = 0 is x itself
Var sigmoid_rows(const Var& x);    // (N, E); a row with a NaN is all NaN
Var normalize_rows(const Var& x);  // rows over their sums
Var take(const Var& score, const Tensor& expert);  // (N, E), (N, k) i32 -> (N, k)
Var keep_weights(const Var& weight, const Tensor& row,
                 bool renormalize);  // (N, k) -> 0 where dropped, over the sum of the kept ones
Var balance_loss(const Var& p, const Tensor& expert, int64_t group_rows,
                 bool all_choices);  // (N, E), (N, k) i32 -> (1), 1 when p is uniform
Var z_loss(const Var& logits);       // mean squared log-sum-exp of the rows -> (1)
struct RouterOptions {
  int64_t top_k = 1;
  int64_t group_rows = 0;    // of a routing group; 0: no losses
  bool all_choices = false;  // the balance loss counts all choices, not the first ones
  bool z_loss = false;
};
Vars router(const Var& x, const Var& w, const RouterOptions& options,
            Tensor* expert);  // (N, D), (E, D) f32 -> a softmax gate fused: x itself (so that
                              // all its gradients meet in one pass), weights (N, k), balance
                              // loss, z loss (undefined without); expert: (N, k) i32
Var to_segments(const Var& x, const Tensor& row);  // (N, D) -> (N k, D), sorted by expert
Var from_segments(const Var& x, const Var& weight,
                  const Tensor& row);  // (R, D), (N, k) -> (N, D), the weighted sum of choices
Var from_segments_add(const Var& x, const Var& weight, const Tensor& row,
                      const Var& residual);  // residual (N, D) + from_segments, rounded once
Var grouped_linear(const Var& x, const Tensor& offsets, const Var& w,
                   const Var& bias);  // (R, K), (E + 1) i32, (E, M, K), (E, M) or undefined
Var grouped_linear_gelu(const Var& x, const Tensor& offsets, const Var& w,
                        const Var& bias);  // gelu(grouped_linear(...)), one kernel
Var grouped_mlp(const Var& x, const Tensor& offsets, const Var& up, const Var& up_bias,
                const Var& down,
                const Var& down_bias);  // down(gelu(up(x))); keeps gelu's input, not its output
Var einsum_dispatch(const Var& x, const Tensor& slot,
                    int64_t slots);  // (N, D), (N, k) i32 -> (slots, D) by a one-hot product
Var einsum_combine(const Var& x, const Var& weight,
                   const Tensor& slot);  // (slots, D), (N, k) -> (N, D) by a one-hot product
Var mix(const Var& a, const Var& b, const Var& share);  // share (N, 2): share_0 a + share_1 b
}  // namespace pyramoe::ops
