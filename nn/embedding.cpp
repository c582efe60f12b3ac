#include "nn/embedding.h"

#include "autograd/ops.h"
#include "dist/collective_ops.h"
#include "nn/vocab_parallel.h"

namespace pyramoe::nn {
namespace {

// Position of every row: (B * T) i32 on the tokens' device. One new token a sequence stands where
// the cache ends, so a decode step reads nothing back to the host.
Tensor row_positions(int64_t batch, int64_t length, int64_t limit, const Context& context,
                     Device device) {
  if (context.positions.defined()) return context.positions;
  if (context.cache && length == 1) return context.cache->lengths;
  std::vector<int32_t> position(static_cast<size_t>(batch * length));
  std::vector<double> start(static_cast<size_t>(batch), 0.0);
  if (context.cache) start = context.cache->lengths.to_vector();
  for (int64_t b = 0; b < batch; ++b) {
    const auto first = static_cast<int64_t>(start[static_cast<size_t>(b)]);
    PM_CHECK(first + length <= limit, "Gpt: a sequence of ", first + length,
             " tokens is longer than model.context = ", limit);
    for (int64_t t = 0; t < length; ++t) {
      position[static_cast<size_t>(b * length + t)] = static_cast<int32_t>(first + t);
    }
  }
  return Tensor::from(position, {batch * length}, device);
}

}  // namespace

Embedding::Embedding(int64_t vocab, int64_t context, int64_t dim, double std, const Build& build)
    : tensor_(build.tensor()) {
  const Placement place =
      tensor_.size() > 1 ? build.over_tensor({vocab, dim}, 0) : build.everywhere();
  tokens_ =
      add_parameter("tokens", {vocab / tensor_.size(), dim}, build, Init::normal(std), true, place);
  positions_ = add_parameter("positions", {context, dim}, build, Init::normal(std));
}

Var Embedding::forward(const Tensor& tokens, const Context& context) const {
  PM_CHECK(tokens.rank() == 2, "Embedding: tokens are (B, T), got ", to_string(tokens.shape()));
  const Tensor position =
      row_positions(tokens.dim(0), tokens.dim(1), positions_.dim(0), context, tokens.device());
  const Tensor flat = tokens.reshape({-1});
  if (tensor_.size() == 1) return ops::embedding(flat, position, tokens_, positions_);
  const Var mine = vocab_embedding(flat, tokens_, tensor_.rank() * tokens_.dim(0));
  return ops::add(dist::sum_from(mine, tensor_), vocab_embedding(position, positions_, 0));
}

Var Embedding::logits(const Var& x) const {
  return ops::linear(dist::copy_to(x, tensor_), tokens_, Var());
}

}  // namespace pyramoe::nn
