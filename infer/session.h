// Reading and continuing several texts at once with a cache of keys and values.
//
// A session holds B rows; each is a text of its own length. Rows never influence each other, bit
// for bit: shorter ones are padded on the right, where causal attention cannot see, and experts
// work on single tokens and drop none. Positions come from the cache's lengths. Read next:
// nn/kv_cache.h, nn/attention.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/graph.h"
#include "infer/head.h"
#include "nn/gpt.h"

namespace pyramoe::infer {

using Tokens = std::vector<int32_t>;

class Session {
 public:
  //   t_max  most tokens a row can hold, at most model.context
  //   vocab  tokens that logits are wanted for (head.h); 0 = all. V below
  Session(nn::Gpt& model, int64_t batch, int64_t t_max, Device device = kCpu, int64_t vocab = 0);

  // Forgets all rows and reads one text per row, none empty. Returns the logits after each row's
  // last token, (B, V) on the session's device.
  Tensor prefill(const std::vector<Tokens>& texts);
  // Reads one more token per row. Rows for which `active` is false read a token that leaves no
  // trace. Returns logits (B, V), which the next step may overwrite.
  Tensor step(std::span<const int32_t> tokens, const std::vector<bool>& active = {});
  // Replaces one row by the only row of another session of the same t_max. The others stay.
  void adopt(int64_t row, const Session& one);

  int64_t batch() const { return static_cast<int64_t>(lengths_.size()); }
  int64_t t_max() const { return t_max_; }
  int64_t length(int64_t row) const { return lengths_.at(static_cast<size_t>(row)); }
  bool full(int64_t row) const { return length(row) == t_max_; }
  int64_t cache_bytes() const { return cache_.bytes(); }

  // With `keep` on, every call keeps which experts its tokens chose.
  void keep_choices(bool keep);
  // The experts of block `layer` that row's tokens of the last call chose: one list a token.
  // Empty for a block without experts.
  std::vector<std::vector<int32_t>> choices(int64_t layer, int64_t row) const;

 private:
  Tensor run(const Tensor& tokens);  // (B, M) -> features (B * M, D)
  void set_lengths();                // to the device
  void step_on_device();             // from tokens_ to logits_

  nn::Gpt& model_;
  Head head_;
  int64_t t_max_;
  Device device_;
  nn::KvCache cache_;
  nn::Context context_;
  std::vector<int32_t> lengths_;
  std::vector<int64_t> fed_;  // real tokens per row of the last call
  int64_t width_ = 0;         // padded tokens per row of the last call
  bool keep_choices_ = false;
  // One step has the same shapes for any mix of lengths: on a GPU the second is captured, and from
  // then on a step is one launch. A model that has to ask the device (the dense form of dispatch)
  // is not captured.
  Tensor tokens_, logits_;  // (B, 1), (B, V)
  Graph graph_;
  enum class Capture { cold, warm, impossible } capture_ = Capture::cold;
};

// The rows `index` of x (N, D), copied.
Tensor take_rows(const Tensor& x, std::span<const int64_t> index);

}  // namespace pyramoe::infer
