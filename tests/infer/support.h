// What the inference tests share: tiny random models of every family, runs on disk.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include <string>
#include <vector>

#include "core/config.h"
#include "core/json.h"
#include "infer/run.h"
#include "infer/session.h"
#include "moe/build_model.h"
#include "tests/data/support.h"

namespace pyramoe::infer {

using data::ScratchFolder;
using data::shared_path;

struct Family {
  std::string name, experts;
  bool residual = false;
  int64_t top_k = 1;
};

// Every family of the paper, and top-2. Capacity is on in all: inference must not drop.
inline const std::vector<Family>& families() {
  static const std::vector<Family> all = {
      {"dense", "0"}, {"moe", "0 4 4"}, {"moe_top2", "4 0 4", false, 2}, {"pr_moe", "0 4 8", true}};
  return all;
}

inline moe::ModelConfig tiny_config(const Family& family, int64_t vocab = 61) {
  moe::ModelConfig config;
  config.layers = 3;
  config.dim = 12;
  config.heads = 3;
  config.context = 24;
  config.vocab = vocab;
  config.init_std = 0.3;  // large enough that logits differ clearly
  config.experts = family.experts;
  config.top_k = family.top_k;
  config.residual = family.residual;
  config.residual_mix = family.residual ? "learned" : "sum";
  config.capacity_factor = 1.0;
  config.min_capacity = 1;
  config.group = 2;
  return config;
}

inline std::unique_ptr<nn::Gpt> tiny_model(const Family& family, DType dtype = DType::f64,
                                           int64_t vocab = 61, uint64_t seed = 7) {
  auto model = moe::build_model(tiny_config(family, vocab), nn::Build{dtype, kCpu}, false);
  model->initialise(seed);
  return model;
}

// Token ids for a test.
inline Tokens random_tokens(int64_t count, int64_t vocab, uint64_t seed) {
  data::Dice dice(seed);
  Tokens tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(dice.below(static_cast<uint32_t>(vocab))));
  }
  return tokens;
}

// Logits of a whole text at once, without a cache: (T, V).
inline Tensor full_logits(nn::Gpt& model, const Tokens& text) {
  const NoGrad no_grad;
  nn::Context context;
  const Tensor tokens = Tensor::from(text, {1, static_cast<int64_t>(text.size())});
  return model.forward(tokens, context).logits.value();
}

// A run folder with one checkpoint of random weights; `tokenizer` may be null.
inline void save_run(const std::string& folder, const moe::ModelConfig& config,
                     const data::Tokenizer* tokenizer, DType dtype = DType::f32, int64_t step = 5,
                     uint64_t seed = 7) {
  auto model = moe::build_model(config, nn::Build{dtype, kCpu}, false);
  model->initialise(seed);
  nn::CheckpointContent content;
  content.step = step;
  content.config = to_toml(config) + "\n[train]\ndtype = \"" + to_string(dtype) + "\"\n";
  for (const nn::Parameter* parameter : model->parameters(true)) {
    content.model.push_back({parameter->name, parameter->var.value()});
  }
  nn::save_checkpoint(folder, content);
  if (tokenizer) tokenizer->save(folder + "/tokenizer");
}

// The exit code of the Error that f throws and a piece its message must have; Exit::done if none.
template <class F>
Exit exit_of(F&& f, const std::string& piece) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(piece), std::string::npos) << error.what();
    return error.code();
  }
  return Exit::done;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

}  // namespace pyramoe::infer
