// A small config with a field of every type and kind of rule, for the config tests.
#pragma once

#include <string>
#include <vector>

#include "core/config.h"

namespace pyramoe {

struct SampleInner {
  std::vector<std::string> sources;
  std::vector<int64_t> cuts;
  template <class V>
  void fields(V& v) {
    v("data.sources", sources, "token files");
    v("data.cuts", cuts, "places to cut",
      rule<int64_t>("no 13", [](int64_t x) { return x != 13; }));
  }
};

struct SampleConfig {
  std::string dir = "runs/x";
  int64_t layers = 12;
  int64_t heads = 12;
  double lr = 3e-4;
  double share = 0.5;
  int64_t batch = 16;
  int64_t micro_batch = 0;
  std::vector<double> weights;
  std::string experts = "0";
  std::string gate = "softmax";
  bool residual = false;
  SampleInner inner;

  template <class V>
  void fields(V& v) {
    v("run.dir", dir, "folder of the run");
    v("model.layers", layers, "transformer blocks", between(1, INT64_MAX));
    v("model.heads", heads, "attention heads", at_least(1), at_most(100));
    v("train.lr", lr, "learning rate", positive());
    v("train.share", share, "a share", between(0.0, 1.0));
    v("train.batch", batch, "sequences in a step", positive());
    v("train.micro_batch", micro_batch, "sequences in a pass", at_least(0));
    v("train.weights", weights, "shares of sources");
    v("moe.experts", experts, "experts of each block", number_as_text());
    v("moe.gate", gate, "how experts are chosen", one_of({"softmax", "sigmoid_bias"}));
    v("moe.residual", residual, "an MLP beside the experts");
    inner.fields(v);
  }

  void check(ConfigProblems& problems) const {
    if (micro_batch > 0 && batch % micro_batch != 0)
      problems.add("train.micro_batch", cat("must divide train.batch = ", batch));
  }
};

}  // namespace pyramoe
