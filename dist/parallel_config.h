// The parallel.* settings: how a run is laid out over ranks. Nothing here changes what the model
// computes.
#pragma once

#include <cstdint>
#include <string>

#include "core/config.h"

namespace pyramoe::dist {

struct ParallelConfig {
  int64_t data = 0;
  int64_t tensor = 1;
  std::string expert = "auto";
  int64_t expert_slice = 1;
  std::string dispatcher = "flat";
  bool blocks = false;
  int64_t node_size = 0;
  int64_t zero = 0;
  bool overlap = false;
  std::string deterministic = "run";
  double deadline = 300;
  std::string link_model = "";

  // Sums do not depend on how samples and experts lie on ranks.
  bool same_on_any_layout() const { return deterministic == "layout"; }

  template <class V>
  void fields(V& v) {
    v("parallel.data", data, "data-parallel ranks; 0 = all ranks / parallel.tensor",
      between(0, 1 << 20));
    v("parallel.tensor", tensor, "tensor-parallel ranks", between(1, 1 << 20));
    v("parallel.expert", expert,
      "expert-parallel degree of every layer of experts, or auto: for each layer as many ranks as "
      "its experts divide among with no rank idle",
      number_as_text(),
      rule<std::string>("auto or a degree of 1 or more", [](const std::string& text) {
        return text == "auto" || (!text.empty() && text.size() < 8 && text[0] != '0' &&
                                  text.find_first_not_of("0123456789") == std::string::npos);
      }));
    v("parallel.expert_slice", expert_slice,
      "data ranks that share the hidden axis of each expert, for more ranks than experts",
      between(1, 1 << 20));
    v("parallel.dispatcher", dispatcher,
      "how tokens reach experts on other ranks: flat (one all-to-all), hierarchical (inside the "
      "node, then between nodes), coordinated (sliced over tensor ranks, all-to-all among equal "
      "ones, all-gather) or einsum (one-hot products and equal parts, the baseline)",
      one_of({"flat", "hierarchical", "coordinated", "einsum"}));
    v("parallel.blocks", blocks,
      "with a capacity, send blocks of fixed size instead of counting rows first");
    v("parallel.node_size", node_size, "ranks of a (virtual) node; 0 = as the machines are",
      between(0, 1 << 20));
    v("parallel.zero", zero,
      "what data ranks share instead of copying: 0 nothing, 1 optimizer state, 2 gradients too",
      between(0, 2));
    v("parallel.overlap", overlap, "reduce gradients while the backward pass still runs");
    v("parallel.deterministic", deterministic,
      "what repeats bit for bit: run (the same job on the same ranks), or layout (the same job on "
      "any "
      "data and expert ranks: micro-batches, by default routing groups, are added up as one tree)",
      one_of({"run", "layout"}));
    v("parallel.deadline", deadline,
      "seconds a rank may wait for others before the job ends with status 6; 0 = for ever",
      between(0.0, 1e6));
    v("parallel.link_model", link_model,
      "delays messages as slower links would, for measurements: \"inside alpha us, inside GB/s, "
      "between alpha us, between GB/s\"");
  }
};

}  // namespace pyramoe::dist
