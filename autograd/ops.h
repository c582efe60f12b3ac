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
// sum_i weight[i] terms[i]: (1) each -> (1); weight (n) f64, read on the device
Var weighted_sum(const Vars& terms, const Tensor& weight);

// ---- matmul; bias (M) or undefined
Var matmul(const Var& a, const Var& b);                        // (M, K) (K, N) -> (M, N)
Var linear(const Var& x, const Var& w, const Var& bias);       // (N, K), (M, K) -> (N, M)
Var linear_gelu(const Var& x, const Var& w, const Var& bias);  // gelu(linear), one kernel
// linear(linear_gelu(x, up), down). On a GPU it keeps gelu's input, not its output: one kernel of
// backward makes that again.
Var mlp(const Var& x, const Var& up, const Var& up_bias, const Var& down, const Var& down_bias);

// ---- softmax, layernorm; over the last axis
Var softmax(const Var& x);
Var layer_norm(const Var& x, const Var& weight, const Var& bias, double eps = 1e-5);
// h = x + residual and layer_norm(h), in one pass
Vars add_layer_norm(const Var& x, const Var& residual, const Var& weight, const Var& bias,
                    double eps = 1e-5);

// ---- embedding
// (N) i32 twice, (V, D), (T, D) -> (N, D)
Var embedding(const Tensor& token, const Tensor& position, const Var& token_table,
              const Var& position_table);

// ---- attention
// (B, T, 3, H, Dh) -> (B, T, H * Dh), causal
Var attention(const Var& qkv, const kernels::AttentionDropout& dropout);

// ---- random
// (N, D); p = 0 is x itself
Var dropout(const Var& x, double p, const RngKey& key, int64_t first_row);

// ---- loss; means over all N, in nats
// (N, V), (N) i32 -> (1); a target < 0 adds 0. reuse_logits: backward overwrites their memory.
Var cross_entropy(const Var& logits, const Tensor& target, bool reuse_logits = false);
// cross_entropy(linear(x, weight), target): (N, D), (V, D), (N) i32 -> (1). Logits of `chunk` rows
// exist at a time; 0 = of all.
Var head_loss(const Var& x, const Var& weight, const Tensor& target, int64_t chunk = 0);
struct Teacher {
  Tensor x, weight;    // features (N, D') and head (V, D'), of the student's dtype
  double temperature;  // of both softmaxes
  Tensor share;        // (2) f64, read on the device: what cross-entropy and KD count
};
// head_loss with a teacher -> share[0] CE + share[1] KD, which alone has a gradient, and the means
// CE and KD; (1) each
Vars head_distill_loss(const Var& x, const Var& weight, const Tensor& target,
                       const Teacher& teacher, int64_t chunk = 0);
// mean T^2 KL(teacher || student): (N, V) twice -> (1)
Var distill_loss(const Var& student, const Tensor& teacher, double temperature);

// ---- moe, routing; row (N, k) i32 is the segment row of each choice, -1 where dropped
// x * U(1 - width, 1 + width); width = 0 is x itself
Var jitter(const Var& x, double width, const RngKey& key, int64_t first_row);
Var sigmoid_rows(const Var& x);                    // (N, E); a row with a NaN is all NaN
Var normalize_rows(const Var& x);                  // rows over their sums
Var take(const Var& score, const Tensor& expert);  // (N, E), (N, k) i32 -> (N, k)
// (N, k) -> (N, k): 0 where dropped; renormalize: over the sum of the kept ones
Var keep_weights(const Var& weight, const Tensor& row, bool renormalize);
// (N, E), (N, k) i32 -> (1), which is 1 when p is uniform
Var balance_loss(const Var& p, const Tensor& expert, int64_t group_rows, bool all_choices);
Var z_loss(const Var& logits);  // mean squared log-sum-exp of the rows -> (1)
struct RouterOptions {
  int64_t top_k = 1;
  int64_t group_rows = 0;    // of a routing group; 0: no losses
  bool all_choices = false;  // the balance loss counts all choices, not the first ones
  bool z_loss = false;
};
// A softmax gate in one kernel: (N, D), (E, D) f32 -> x itself (so that all its gradients meet in
// one pass), weights (N, k), balance loss, z loss (undefined without). Sets expert (N, k) i32.
Vars router(const Var& x, const Var& w, const RouterOptions& options, Tensor* expert);

// ---- moe, tokens to experts and back; offsets (E + 1) i32, bias (E, M) or undefined
Var to_segments(const Var& x, const Tensor& row);  // (N, D) -> (N k, D), sorted by expert
// (R, D), (N, k) -> (N, D), the weighted sum of a token's choices
Var from_segments(const Var& x, const Var& weight, const Tensor& row);
// residual (N, D) + from_segments, rounded once
Var from_segments_add(const Var& x, const Var& weight, const Tensor& row, const Var& residual);
// (R, K), (E, M, K) -> (R, M): each expert's rows by its own weight
Var grouped_linear(const Var& x, const Tensor& offsets, const Var& w, const Var& bias);
// gelu(grouped_linear(...)), one kernel
Var grouped_linear_gelu(const Var& x, const Tensor& offsets, const Var& w, const Var& bias);
// down(gelu(up(x))); keeps gelu's input, not its output
Var grouped_mlp(const Var& x, const Tensor& offsets, const Var& up, const Var& up_bias,
                const Var& down, const Var& down_bias);
// (N, D), (N, k) i32 -> (slots, D) by a one-hot product
Var einsum_dispatch(const Var& x, const Tensor& slot, int64_t slots);
// (slots, D), (N, k) -> (N, D) by a one-hot product
Var einsum_combine(const Var& x, const Var& weight, const Tensor& slot);
Var mix(const Var& a, const Var& b, const Var& share);  // share (N, 2): share_0 a + share_1 b
}  // namespace pyramoe::ops
