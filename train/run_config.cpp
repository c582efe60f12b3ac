#include "train/run_config.h"

#include <algorithm>

#include "core/file.h"
#include "moe/layer_plan.h"
#include "moe/model_cost.h"
#include "moe/student.h"
#include "train/memory_plan.h"

namespace pyramoe::train {
namespace {

void check_batches(const RunConfig& c, ConfigProblems& problems) {
  const int64_t micro = c.micro_batch();
  if (c.train.batch % micro != 0) {
    problems.add("train.micro_batch", cat("must divide train.batch = ", c.train.batch));
  }
  if (c.train.ramp_start > 0) {
    if (c.train.ramp_start % micro != 0) {
      problems.add("train.ramp_start", cat("must be a multiple of train.micro_batch = ", micro));
    }
    if (c.train.batch % c.train.ramp_start != 0) {
      problems.add("train.ramp_start", cat("must divide train.batch = ", c.train.batch));
    }
  }
  if (c.train.ramp_tokens > 0 && c.train.ramp_start == 0) {
    problems.add("train.ramp_tokens", "needs train.ramp_start, the batch that the run begins with");
  }
  int64_t tokens = 0;
  if (__builtin_mul_overflow(c.train.batch, c.model.context, &tokens) ||
      __builtin_mul_overflow(tokens, std::max<int64_t>(c.train.steps, 1), &tokens)) {
    problems.add("train.steps",
                 "times train.batch times model.context is more than can be counted");
  }
  bool has_experts = false;
  for (const int64_t experts : moe::expand_experts(c.model.experts, c.model.layers)) {
    has_experts |= experts > 0;
  }
  if (has_experts && micro % c.model.group != 0) {
    int64_t below = c.model.group;
    while (micro % below != 0) --below;
    problems.add("moe.group", cat("must divide train.micro_batch = ", micro,
                                  ", so that no group spans two passes; the nearest is ", below));
  }
}

void check_training(const RunConfig& c, ConfigProblems& problems) {
  if (c.train.min_lr > c.train.lr) {
    problems.add("train.min_lr", cat("must not be above train.lr = ", c.train.lr));
  }
  if (c.train.decay_tokens > 0 && c.train.decay_tokens <= c.train.warmup_tokens) {
    problems.add("train.decay_tokens",
                 cat("must be above train.warmup_tokens = ", c.train.warmup_tokens));
  }
  if (c.train.states == "bf16" && (c.train.dtype != "bf16" || c.train.optimizer != "adamw")) {
    problems.add("train.states", "= \"bf16\" needs train.dtype = \"bf16\" and adamw");
  }
  if (bytes_of(c.train.memory_limit) > 0 && c.parallel.same_on_any_layout()) {
    problems.add("train.memory_limit",
                 "does not count the sums that parallel.deterministic = \"layout\" keeps; set "
                 "train.recompute by hand, or parallel.deterministic = \"run\"");
  }
  if (c.model.budget > 0 && c.train.optimizer != "adamw") {
    problems.add("moe.budget",
                 "needs train.optimizer = \"adamw\": its second moments say which "
                 "experts matter");
  }
  if (!c.init.from.empty() && !c.init.from_dense.empty()) {
    problems.add("init.from", "and init.from_dense exclude each other: a model starts once");
  }
  if (c.distill.init == "teacher" && c.distill.teacher.empty()) {
    problems.add("distill.init", "needs distill.teacher, the run that the layers come from");
  }
  const DistillConfig plain;
  if (c.distill.teacher.empty()) {
    const auto needs_teacher = [&](const char* key, bool changed) {
      if (changed) problems.add(key, "has no effect without distill.teacher, the teacher's run");
    };
    needs_teacher("distill.schedule", c.distill.schedule != plain.schedule);
    needs_teacher("distill.stop_at", c.distill.stop_at != plain.stop_at);
    needs_teacher("distill.beta", c.distill.beta != plain.beta);
    needs_teacher("distill.temperature", c.distill.temperature != plain.temperature);
  }
  if (c.distill.init == "teacher" && !(c.init.from.empty() && c.init.from_dense.empty())) {
    problems.add("distill.init", "and init.* exclude each other: a model starts once");
  }
}

void check_data(const RunConfig& c, ConfigProblems& problems) {
  if (c.dir.empty()) {  // as of run.dir=$UNSET: the run would lie in /
    problems.add("run.dir", "must name a folder");
  }
  if (c.data.synthetic && !c.data.sources.empty()) {
    problems.add("data.sources", "must be empty when data.synthetic is true");
  }
  if (!c.data.weights.empty() && c.data.weights.size() != c.data.sources.size()) {
    problems.add("data.weights", cat("must have one entry per data.sources (",
                                     c.data.sources.size(), "), or none"));
  }
  if (!c.data.validation.empty() && c.data.validation.size() != c.data.sources.size()) {
    problems.add("data.validation",
                 cat("must name one file per data.sources (", c.data.sources.size(), "), or none"));
  }
  for (const double weight : c.data.weights) {
    if (!(weight > 0)) problems.add("data.weights", "must all be above 0");
  }
}

RunConfig finish(const ConfigSource& source) {
  RunConfig config;
  apply_config(source, config);
  if (config.distill.student_layers > 0) {
    if (config.distill.teacher.empty()) {
      fail(Exit::config, "distill.student_layers = ", config.distill.student_layers,
           " needs distill.teacher, the run whose model is cut");
    }
    const std::string file = config.distill.teacher + "/config.toml";
    const RunConfig teacher = parse_run_config(read_file(file, 1 << 20, Exit::config), file);
    config.model = moe::student_config(teacher.model, config.distill.student_layers);
    config.distill.student_layers = 0;  // the saved config then stands for itself
  }
  return config;
}

}  // namespace

bool is_bytes(const std::string& text) { return bytes_of(text) >= 0; }

void RunConfig::check(ConfigProblems& problems) const {
  check_training(*this, problems);
  check_data(*this, problems);
  try {
    if (distill.student_layers == 0) {
      moe::model_cost(model, DType::f32);
      check_batches(*this, problems);
    }
  } catch (const Error& error) {
    problems.add_line(error.what());
  }
}

RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides) {
  return finish(load_config(path, overrides));
}

RunConfig parse_run_config(const std::string& toml, const std::string& what) {
  return finish(parse_config(toml, what));
}

std::string config_page() {
  return "# Settings\n\n"
         "Every key of a config file, from the field lists in `moe/model_config.h` and\n"
         "`train/run_config.h` (`pyramoe train --keys --markdown` prints this page; a test "
         "compares).\n"
         "A file may start with `include = [\"other.toml\"]`, relative to itself; later values "
         "win, and\n"
         "`key=value` on the command line wins over all. A key that does not exist, a value of "
         "the\n"
         "wrong type or out of range, and settings that contradict each other end with status 2 "
         "before\n"
         "any work.\n\n" +
         markdown_table(RunConfig{});
}

DType dtype_of(const RunConfig& config) {
  return config.train.dtype == "f64"    ? DType::f64
         : config.train.dtype == "bf16" ? DType::bf16
                                        : DType::f32;
}

}  // namespace pyramoe::train
