#include "moe/layer_plan.h"

#include <cctype>

namespace pyramoe::moe {
namespace {

constexpr int64_t kMaxEntries = 4096;
constexpr int64_t kMaxExperts = 1 << 16;

// list := item*;  item := (number | "(" list ")") ["*" number]
class ExpertsText {
 public:
  explicit ExpertsText(const std::string& text) : text_(text) {}

  std::vector<int64_t> parse() {
    std::vector<int64_t> all = list(0);
    if (at_ < text_.size()) wrong("')' without '('");
    return all;
  }

 private:
  [[noreturn]] void wrong(const std::string& what) const {
    fail(Exit::config, "moe.experts = \"", text_, "\": ", what, " at character ", at_ + 1,
         "; expected a number such as 32, or a list such as \"(0 32)*10 (0 64)*2\"");
  }
  void skip_blanks() {
    while (at_ < text_.size() &&
           (std::isspace(static_cast<unsigned char>(text_[at_])) || text_[at_] == ',')) {
      ++at_;
    }
  }
  bool next_is(char c) {
    skip_blanks();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  int64_t number(int64_t most) {
    skip_blanks();
    const size_t begin = at_;
    int64_t value = 0;
    while (at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_]))) {
      value = value * 10 + (text_[at_++] - '0');
      if (value > most) wrong("a number over " + std::to_string(most));
    }
    if (at_ == begin) wrong("no number");
    return value;
  }
  std::vector<int64_t> list(int depth) {
    if (depth > 16) wrong("brackets nested more than 16 deep");
    std::vector<int64_t> all;
    for (skip_blanks(); at_ < text_.size() && text_[at_] != ')'; skip_blanks()) {
      std::vector<int64_t> item;
      if (next_is('(')) {
        item = list(depth + 1);
        if (!next_is(')')) wrong("'(' that is never closed");
      } else {
        item = {number(kMaxExperts)};
      }
      const int64_t times = next_is('*') ? number(kMaxEntries) : 1;
      if (static_cast<int64_t>(all.size() + item.size() * static_cast<size_t>(times)) >
          kMaxEntries) {
        wrong("a list longer than " + std::to_string(kMaxEntries));
      }
      for (int64_t i = 0; i < times; ++i) all.insert(all.end(), item.begin(), item.end());
    }
    return all;
  }

  const std::string& text_;
  size_t at_ = 0;
};

}  // namespace

const char* kind_name(FfnKind kind) {
  switch (kind) {
    case FfnKind::dense:
      return "dense";
    case FfnKind::moe:
      return "moe";
    case FfnKind::residual_moe:
      return "residual_moe";
  }
  return "?";
}

std::vector<int64_t> expand_experts(const std::string& text, int64_t layers) {
  std::vector<int64_t> experts = ExpertsText(text).parse();
  if (experts.size() == 1) experts.assign(static_cast<size_t>(layers), experts[0]);
  if (static_cast<int64_t>(experts.size()) != layers) {
    fail(Exit::config, "moe.experts = \"", text, "\" expands to ", experts.size(),
         " entries, model.layers = ", layers, " needs ", layers,
         "; write one entry per layer, 0 for a dense one");
  }
  return experts;
}

namespace {

// moe.budget in equal parts over the layers of experts.
void share_budget(const ModelConfig& config, std::vector<LayerPlan>& plan) {
  if (config.gate != "softmax" || config.force_balance) {
    fail(Exit::config, "moe.budget = ", config.budget, " needs moe.gate = \"softmax\" without ",
         "moe.force_balance: other choices know nothing of empty slots");
  }
  int64_t layers = 0;
  for (const LayerPlan& layer : plan) layers += layer.experts > 0 ? 1 : 0;
  if (layers == 0 || config.budget % layers != 0) {
    fail(Exit::config, "moe.budget = ", config.budget, " does not divide among the ", layers,
         " layers of experts, which start equal");
  }
  const int64_t share = config.budget / layers;
  for (size_t i = 0; i < plan.size(); ++i) {
    if (plan[i].experts == 0) continue;
    if (share > plan[i].experts || share < config.top_k) {
      fail(Exit::config, "moe.budget = ", config.budget, " gives each of ", layers, " layers ",
           share, " experts; layer ", i, " has ", plan[i].experts,
           " slots (moe.experts) and needs ", config.top_k, " (moe.top_k) at least");
    }
    plan[i].live = share;
  }
}

}  // namespace

std::vector<LayerPlan> layer_plan(const ModelConfig& config) {
  if (config.dim % config.heads != 0) {
    fail(Exit::config, "model.heads = ", config.heads, " does not divide model.dim = ", config.dim,
         "; the nearest that do are ", [&] {
           int64_t below = config.heads, above = config.heads;
           while (below > 1 && config.dim % below != 0) --below;
           while (above < config.dim && config.dim % above != 0) ++above;
           return cat(below, " and ", above);
         }());
  }
  std::vector<LayerPlan> plan;
  for (const int64_t experts : expand_experts(config.experts, config.layers)) {
    LayerPlan layer;
    if (experts > 0) {
      if (config.top_k > experts) {
        fail(Exit::config, "moe.top_k = ", config.top_k, " is more than the ", experts,
             " experts of layer ", plan.size(), " (moe.experts = \"", config.experts,
             "\"); lower moe.top_k or give every layer of experts at least that many");
      }
      layer.kind = config.residual ? FfnKind::residual_moe : FfnKind::moe;
      layer.experts = layer.live = experts;
      layer.top_k = config.top_k;
    }
    plan.push_back(layer);
  }
  if (config.budget > 0) share_budget(config, plan);
  if (config.dispatch == "einsum" && config.capacity_factor == 0) {
    fail(Exit::config, "moe.dispatch = \"einsum\" has one slot per unit of capacity: set ",
         "moe.capacity_factor (1.0 or more), or use moe.dispatch = \"segments\"");
  }
  return plan;
}

}  // namespace pyramoe::moe
