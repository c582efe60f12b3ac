#include "lab/plan.h"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <set>

#include "core/text.h"
#include "lab/items.h"
#include "moe/student.h"
#include "train/schedule.h"

namespace pyramoe::lab {
namespace {

uint64_t fnv(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3u;
  }
  return hash;
}

std::string hex(uint64_t hash) { return fmt::format("{:016x}", hash); }

// HASH of ".../HASH-SEED"; other folders as they are.
std::string name_of_run(const std::string& folder) {
  const std::string last = folder.substr(folder.rfind('/') + 1);
  const size_t dash = last.rfind('-');
  const bool ours = dash == 16 && last.find_first_not_of("0123456789abcdef") == 16;
  return ours ? last.substr(0, 16) : folder;
}

// Keys that say where a run lies, which of its seeds it is, and what is kept and shown of it.
bool is_bookkeeping(const std::string& key) {
  static const std::set<std::string> keys = {"run.dir",
                                             "train.seed",
                                             "train.save_every",
                                             "train.keep_last",
                                             "train.log_every",
                                             "train.dump",
                                             "train.sample_every",
                                             "train.sample_tokens",
                                             "train.sample_prompt",
                                             "train.record_routing"};
  return keys.count(key) > 0;
}

// Plans the arms of one seed; an arm's needs are planned before it, however deep.
class SeedPlan {
 public:
  SeedPlan(const Definition& d, const Scale& scale, const PlanOptions& options, int64_t seed)
      : d_(d), scale_(scale), options_(options), seed_(seed) {}

  const PlannedRun& get(const std::string& name) {
    const auto found = done_.find(name);
    if (found != done_.end()) return found->second;
    const Arm& arm = arm_of(name);
    if (!takes_part(arm.scales, scale_.name)) {
      fail(Exit::config, d_.folder, "/experiment.toml: arm ", name, " takes no part at scale ",
           scale_.name, ", but another arm needs it there");
    }
    PlannedRun run = arm.reuse.empty() ? trained(arm) : evaluated(arm);
    return done_.emplace(name, std::move(run)).first->second;
  }

  bool has(const std::string& name) const { return done_.count(name) > 0; }

 private:
  const Arm& arm_of(const std::string& name) const {
    std::string all;
    for (const Arm& arm : d_.arms) {
      if (arm.name == name) return arm;
      all += (all.empty() ? "" : ", ") + arm.name;
    }
    fail(Exit::config, d_.folder, " has no arm ", quoted(name), "; it has ", all);
  }

  PlannedRun common(const Arm& arm) const {
    PlannedRun run;
    run.experiment = d_.name;
    run.scale = scale_.name;
    run.arm = arm.name;
    run.label = fill_words(arm.label, scale_, where(arm));
    run.seed = seed_;
    return run;
  }

  std::string where(const Arm& arm) const {
    return cat(d_.folder, "/experiment.toml, arm ", arm.name, " at scale ", scale_.name);
  }

  // The keys of an arm, later ones over earlier ones; "@arm" becomes that arm's folder.
  ConfigSource source_of(const Arm& arm, PlannedRun& run) {
    ConfigSource source;
    for (const Settings* settings : {&scale_.set, &d_.set, &arm.set, &options_.set}) {
      for (const auto& [key, text] : *settings) {
        if (key == "run.dir" || key == "train.seed") {
          fail(Exit::config, where(arm), ": ", key,
               " is not an experiment's to set: runs are named by their settings, and seeds come "
               "from the scale or --seeds");
        }
        std::string value = fill_words(text, scale_, cat(where(arm), ", ", key));
        if (value.starts_with("@")) value = get(value.substr(1)).folder;
        source.set(override_item(key, value, where(arm)));
      }
    }
    for (const auto& [name, other] : done_) {
      for (const ConfigItem& item : source.items()) {
        if (item.text == other.folder) run.needs.push_back(other.folder);
      }
    }
    return source;
  }

  // A student's model is cut from its teacher's, which has no run folder yet.
  void cut_student(train::RunConfig& config) const {
    for (const auto& [name, other] : done_) {
      if (other.folder != config.distill.teacher || config.distill.student_layers == 0) continue;
      config.model = moe::student_config(other.config.model, config.distill.student_layers);
      config.distill.student_layers = 0;
    }
  }

  PlannedRun trained(const Arm& arm) {
    PlannedRun run = common(arm);
    const ConfigSource source = source_of(arm, run);
    train::RunConfig config;
    apply_config(source, config);
    cut_student(config);
    lengthen(config.train);
    config.train.seed = seed_;
    config = train::parse_run_config(to_toml(config), where(arm));
    run.hash = config_hash(config);
    run.folder = folder_of(run.hash);
    config.dir = run.folder;
    run.cost = moe::model_cost(config.model, train::dtype_of(config));
    run.tokens = static_cast<double>(train::Schedule(config).total_tokens());
    run.flops =
        run.tokens * (static_cast<double>(run.cost.flops_per_token) + teacher_flops(config));
    run.config = std::move(config);
    run.tasks = d_.tasks;
    run.task_limit = d_.task_limit;
    run.eval_data = scale_.eval_data;
    run.bench = d_.bench;
    if (!run.tasks.empty() && run.eval_data.empty()) {
      fail(Exit::config, where(arm), ": tasks need eval_data in scales/", scale_.name, ".toml");
    }
    return run;
  }

  // A teacher goes forward only: a third of forward and backward.
  double teacher_flops(const train::RunConfig& config) const {
    for (const auto& [name, other] : done_) {
      if (other.folder != config.distill.teacher) continue;
      const double share = config.distill.schedule == "full" ? 1 : config.distill.stop_at;
      return static_cast<double>(other.cost.flops_per_token) / 3 * share;
    }
    return 0;
  }

  PlannedRun evaluated(const Arm& arm) {
    const PlannedRun source = get(arm.reuse);
    PlannedRun run = common(arm);
    run.config = source.config;
    run.cost = source.cost;
    run.reuse = source.folder;
    run.needs = {source.folder};
    std::string text = "eval " + source.hash;
    for (const std::string& option : arm.eval) {
      run.eval.push_back(fill_words(option, scale_, where(arm) + ", eval"));
      text += "\n" + run.eval.back();
    }
    run.hash = hex(fnv(text));
    run.folder = folder_of(run.hash);
    return run;
  }

  std::string folder_of(const std::string& hash) const {
    return cat(options_.runs, "/", scale_.name, "/", hash, "-", seed_);
  }

  void lengthen(train::TrainConfig& t) const {
    if (options_.length == 1) return;
    for (int64_t* value : {&t.steps, &t.warmup_tokens, &t.decay_tokens, &t.ramp_tokens}) {
      *value = std::llround(static_cast<double>(*value) * options_.length);
    }
    if (t.eval_every == 0) return;
    t.eval_every =
        std::max<int64_t>(1, std::llround(static_cast<double>(t.eval_every) * options_.length));
  }

  const Definition& d_;
  const Scale& scale_;
  const PlanOptions& options_;
  int64_t seed_;
  std::map<std::string, PlannedRun> done_;
};

}  // namespace

std::string config_hash(const train::RunConfig& config) {
  train::RunConfig named = config;
  for (std::string* folder : {&named.distill.teacher, &named.init.from, &named.init.from_dense}) {
    *folder = name_of_run(*folder);
  }
  const train::RunConfig defaults;
  const std::string all = to_toml(named), usual = to_toml(defaults);
  std::string text;
  // The same keys in the same order, a line each.
  for (size_t a = 0, b = 0; a < all.size();) {
    const size_t a_end = all.find('\n', a), b_end = usual.find('\n', b);
    const std::string line = all.substr(a, a_end - a);
    const bool differs = line != usual.substr(b, b_end - b);
    if (differs && !is_bookkeeping(line.substr(0, line.find(' ')))) text += line + "\n";
    a = a_end + 1;
    b = b_end + 1;
  }
  return hex(fnv(text));
}

std::vector<PlannedRun> plan_runs(const Definition& definition, const Scale& scale,
                                  const PlanOptions& options) {
  if (!(options.length > 0 && options.length <= 1e6)) {
    fail(Exit::config, "--long must be a factor above 0, got ", options.length);
  }
  const int64_t seeds = options.seeds > 0 ? options.seeds : scale.seeds;
  std::vector<PlannedRun> runs;
  for (int64_t seed = 1; seed <= seeds; ++seed) {
    SeedPlan plan(definition, scale, options, seed);
    for (const std::string& name : options.arms) plan.get(name);
    if (options.arms.empty()) {
      for (const Arm& arm : definition.arms) {
        if (takes_part(arm.scales, scale.name)) plan.get(arm.name);
      }
    }
    for (const Arm& arm : definition.arms) {
      if (plan.has(arm.name)) runs.push_back(plan.get(arm.name));
    }
  }
  return runs;
}

}  // namespace pyramoe::lab
