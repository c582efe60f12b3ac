// What spans several keys of an experiment.toml: names that refer to arms, words, tasks and scales,
// and metrics. A mistake is found here, before the first run, and not in the table after the last.
#include <algorithm>
#include <map>
#include <set>

#include "core/text.h"
#include "infer/evaluate.h"
#include "lab/definition.h"

namespace pyramoe::lab {
namespace {

const std::set<std::string> kMetrics = {
    "loss",          "perplexity",  "params_total",    "params_active",
    "params_expert", "tokens",      "flops_per_token", "seconds",
    "tokens_per_s",  "dropped",     "imbalance",       "total_bytes",
    "expert_bytes",  "expert_bits", "distill_share",   "experts_live"};

class Checker {
 public:
  Checker(const Definition& d, const std::string& path) : d_(d), path_(path) {
    for (const std::string& name : scale_names(d.folder)) {
      scales_.emplace(name, read_scale(d.folder, name));
    }
    for (const Arm& arm : d.arms) arms_.emplace(arm.name, &arm);
  }

  void run() {
    need(!d_.title.empty(), "title is missing");
    need(!d_.question.empty(), "question is missing: what should the runs answer?");
    need(!d_.arms.empty(), "there is no [[arm]]");
    need(arms_.size() == d_.arms.size(), "two arms have the same name");
    if (!d_.tasks.empty()) infer::parse_tasks(d_.tasks);
    figure();
    for (const std::string& metric : d_.columns) check_metric(metric, "columns");
    for (const auto& [key, value] : d_.set) words(value, "set", {});
    for (const Arm& arm : d_.arms) check_arm(arm);
    for (const Arm& arm : d_.arms) circle(arm, {});
    for (const Claim& claim : d_.claims) check_claim(claim);
    for (const auto& row : d_.paper.rows) {
      need(row.size() == d_.paper.columns.size(), "paper.rows: a row has ", row.size(),
           " cells, paper.columns has ", d_.paper.columns.size());
    }
  }

 private:
  template <class... Parts>
  void need(bool holds, const Parts&... parts) const {
    if (!holds) fail(Exit::config, path_, ": ", parts...);
  }

  void figure() const {
    const bool bars = d_.figure.starts_with("bars:");
    need(bars || d_.figure == "bars" || d_.figure == "loss_curves" ||
             d_.figure == "loss_by_parameters",
         "figure = ", quoted(d_.figure),
         "; expected loss_curves, loss_by_parameters, bars or bars:METRIC");
    if (bars) check_metric(d_.figure.substr(5), "figure");
  }

  void check_metric(const std::string& metric, const std::string& where) const {
    const auto starts = [&](const char* prefix) { return metric.starts_with(prefix); };
    bool exists = kMetrics.count(metric) > 0 || starts("loss.") || starts("live.") ||
                  (starts("bench.") && d_.bench) || (starts("loss@") && share(metric.substr(5)));
    if (starts("acc.") && !d_.tasks.empty()) {
      for (const infer::Task* task : infer::parse_tasks(d_.tasks)) {
        exists |= metric == "acc." + task->name;
      }
    }
    need(exists, where, ": no run has the metric ", quoted(metric),
         "; it can be loss, loss@SHARE, loss.DOMAIN, params_total, ... (docs/experiment.md), "
         "bench.* where bench = true, acc.TASK of the experiment's tasks");
  }

  static bool share(const std::string& text) {
    if (text.empty() || text.find_first_not_of("0123456789.") != std::string::npos) return false;
    const double value = std::strtod(text.c_str(), nullptr);
    return value > 0 && value <= 1;
  }

  void check_scales(const std::vector<std::string>& names, const std::string& where) const {
    for (const std::string& name : names) {
      need(scales_.empty() || scales_.count(name) > 0, where, ": there is no scale ", quoted(name),
           " in ../scales");
    }
  }

  // Every {word} must be known at one of the scales where the text is used.
  void words(const std::string& text, const std::string& where,
             const std::vector<std::string>& taking_part) const {
    for (const std::string& word : words_in(text)) {
      bool known = false;
      for (const auto& [name, scale] : scales_) {
        known |= takes_part(taking_part, name) && scale.words.count(word) > 0;
      }
      need(known, where, ": no scale has the word {", printable(word), "}");
    }
  }

  void check_arm(const Arm& arm) const {
    const std::string where = "arm " + quoted(arm.name);
    need(!arm.name.empty() && arm.name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") ==
                                  std::string::npos,
         where, ": a name needs letters a-z, digits and _");
    check_scales(arm.scales, where);
    words(arm.label, where + ", label", arm.scales);
    for (const auto& [key, value] : arm.set) {
      words(value, where + ", " + key, arm.scales);
      if (value.starts_with("@")) refers_to(value.substr(1), where + ", " + key);
    }
    if (arm.reuse.empty()) {
      need(arm.eval.empty(), where, ": eval needs reuse, the arm whose run is evaluated");
      return;
    }
    refers_to(arm.reuse, where + ", reuse");
    need(!arm.eval.empty(), where, ": reuse needs eval, the options of `pyramoe eval`");
    need(arm.set.empty(), where, ": an arm with reuse trains nothing, so set has no effect");
    for (const std::string& option : arm.eval) words(option, where + ", eval", arm.scales);
  }

  void refers_to(const std::string& name, const std::string& where) const {
    const auto found = arms_.find(name);
    need(found != arms_.end(), where, ": there is no arm ", quoted(name));
    need(found->second->reuse.empty(), where, ": arm ", name, " trains nothing (it has reuse)");
  }

  void circle(const Arm& arm, std::vector<std::string> above) const {
    const bool met = std::find(above.begin(), above.end(), arm.name) != above.end();
    above.push_back(arm.name);
    std::string way;
    for (const std::string& name : above) way += (way.empty() ? "" : " -> ") + name;
    need(!met, "arms need each other in a circle: ", way);
    for (const auto& [key, value] : arm.set) {
      if (value.starts_with("@")) circle(*arms_.at(value.substr(1)), above);
    }
  }

  void check_claim(const Claim& claim) const {
    const std::string where = "claim " + quoted(claim.text);
    need(!claim.text.empty(), "a claim has no text");
    const bool alone = claim.measure == Measure::value;
    need(arms_.count(claim.left) > 0, where, ": left = ", quoted(claim.left), " is no arm");
    need(alone || arms_.count(claim.right) > 0, where, ": right = ", quoted(claim.right),
         " is no arm");
    need(!alone || claim.right.empty(), where, ": measure = \"value\" looks at left alone");
    need(claim.side != Side::within || claim.margin > 0, where, ": within needs a margin above 0");
    need(claim.measure != Measure::tokens_to_match || claim.metric == "loss", where,
         ": tokens_to_match is about the metric loss");
    check_metric(claim.metric, where + ", metric");
    check_scales(claim.scales, where);
    words(claim.text, where, claim.scales);
    for (const std::string& scale : claim.scales) {
      const bool both = takes_part(arms_.at(claim.left)->scales, scale) &&
                        (alone || takes_part(arms_.at(claim.right)->scales, scale));
      need(both, where, ": one of its arms takes no part at scale ", scale);
    }
  }

  const Definition& d_;
  const std::string& path_;
  std::map<std::string, Scale> scales_;
  std::map<std::string, const Arm*> arms_;
};

}  // namespace

void check_definition(const Definition& definition, const std::string& path) {
  Checker(definition, path).run();
}

}  // namespace pyramoe::lab
