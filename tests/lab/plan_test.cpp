// Plans: what a run's hash depends on, who waits for whom, and what is refused before anything
// starts.
#include "lab/plan.h"

#include <gtest/gtest.h>

#include "lab/slurm.h"
#include "tests/lab/tiny_experiment.h"

namespace pyramoe {
namespace {

using lab::PlannedRun;
using test::complaint;
using test::replaced;
using test::TinyExperiments;

std::vector<PlannedRun> plan(const TinyExperiments& files, const lab::PlanOptions& options = {}) {
  return lab::plan_runs(files.definition(), files.scale(), options);
}

TEST(Plan, HasEveryArmAndSeedOnce) {
  const TinyExperiments files;
  const std::vector<PlannedRun> runs = plan(files);
  ASSERT_EQ(runs.size(), 4u);
  EXPECT_EQ(runs[1].arm, "moe");
  EXPECT_EQ(runs[1].label, "MoE 2");
  EXPECT_EQ(runs[1].config.model.experts, "0 2");
  EXPECT_EQ(runs[3].seed, 2);
  EXPECT_EQ(runs[3].config.train.seed, 2);
  EXPECT_EQ(runs[1].hash, runs[3].hash);
  EXPECT_NE(runs[0].hash, runs[1].hash);
  EXPECT_EQ(runs[3].folder, "runs/experiments/tiny/" + runs[3].hash + "-2");
  EXPECT_EQ(runs[0].tokens, 6 * 4 * 16);
  EXPECT_EQ(runs[0].flops, runs[0].tokens * static_cast<double>(runs[0].cost.flops_per_token));
}

TEST(Plan, HashIsOfWhatIsComputed) {
  train::RunConfig config;
  const std::string hash = lab::config_hash(config);
  EXPECT_EQ(hash.size(), 16u);
  train::RunConfig same = config;
  same.dir = "elsewhere";
  same.train.seed = 7;
  same.train.save_every = -1;
  same.train.log_every = 3;
  EXPECT_EQ(lab::config_hash(same), hash);
  train::RunConfig other = config;
  other.train.lr *= 2;
  EXPECT_NE(lab::config_hash(other), hash);
  // Teachers by their hash: neither where they lie nor their seed counts.
  same.distill.teacher = "runs/experiments/cpu/0123456789abcdef-1";
  other = config;
  other.distill.teacher = "/else/small/0123456789abcdef-2";
  EXPECT_EQ(lab::config_hash(same), lab::config_hash(other));
  other.distill.teacher = "/else/small/1123456789abcdef-2";
  EXPECT_NE(lab::config_hash(same), lab::config_hash(other));
}

TEST(Plan, EqualArmsOfTwoExperimentsAreOneRun) {
  const TinyExperiments files;
  // The same model said otherwise: a default in words, the scale's word, another order.
  files.put("experiments/other/experiment.toml", R"(
title = "Other"
question = "?"
[[arm]]
name = "experts"
set = { "model.bias" = true, "moe.experts" = "0 2", "moe.top_k" = 1 }
)");
  const std::vector<PlannedRun> a = plan(files);
  const std::vector<PlannedRun> b =
      lab::plan_runs(lab::read_definition(files.path("experiments/other")), files.scale(), {});
  EXPECT_EQ(a[1].folder, b[0].folder);
}

TEST(Plan, StudentWaitsForItsTeacher) {
  const TinyExperiments files;
  files.add(test::kStudent);
  const std::vector<PlannedRun> runs = plan(files, {.seeds = 1, .arms = {"student"}});
  ASSERT_EQ(runs.size(), 2u);  // the teacher comes along
  EXPECT_EQ(runs[0].arm, "moe");
  EXPECT_EQ(runs[1].arm, "student");
  EXPECT_EQ(runs[1].needs, std::vector<std::string>{runs[0].folder});
  EXPECT_EQ(runs[1].config.distill.teacher, runs[0].folder);
  EXPECT_EQ(runs[1].config.model.layers, 1);
  EXPECT_GT(runs[1].flops, runs[1].tokens * static_cast<double>(runs[1].cost.flops_per_token));
}

TEST(Plan, EvaluatedArmHasItsOwnHash) {
  const TinyExperiments files;
  files.add(
      "\n[[arm]]\nname = \"a\"\nreuse = \"moe\"\neval = [\"--loss\"]\n"
      "[[arm]]\nname = \"b\"\nreuse = \"moe\"\neval = [\"--loss\", \"--limit\", \"{few}\"]\n");
  const std::vector<PlannedRun> runs = plan(files, {.seeds = 1});
  ASSERT_EQ(runs.size(), 4u);
  EXPECT_EQ(runs[2].reuse, runs[1].folder);
  EXPECT_EQ(runs[2].needs, std::vector<std::string>{runs[1].folder});
  EXPECT_EQ(runs[3].eval.back(), "2");
  EXPECT_NE(runs[2].hash, runs[3].hash);
}

TEST(Plan, LongMultipliesStepsAndWhatGoesWithThem) {
  const TinyExperiments files;
  const std::vector<PlannedRun> usual = plan(files);
  const std::vector<PlannedRun> longer = plan(files, {.length = 2.5});
  EXPECT_EQ(longer[0].config.train.steps, 15);
  EXPECT_EQ(longer[0].config.train.warmup_tokens, 160);
  EXPECT_EQ(longer[0].config.train.eval_every, 5);
  EXPECT_NE(longer[0].hash, usual[0].hash);
  EXPECT_NE(complaint([&] { plan(files, {.length = -1}); }), "");
}

TEST(Plan, RefusesBeforeAnythingStarts) {
  const TinyExperiments files;
  EXPECT_NE(complaint([&] { plan(files, {.arms = {"none"}}); }).find("it has dense, moe"),
            std::string::npos);
  EXPECT_NE(complaint([&] {
              plan(files, {.set = {{"train.seed", "3"}}});
            }).find("--seeds"),
            std::string::npos);
  EXPECT_NE(complaint([&] {
              plan(files, {.set = {{"train.steps", "many"}}});
            }).find("arm dense at scale tiny"),
            std::string::npos);
  files.put("experiments/scales/tiny.toml", replaced(test::kTinyScale, "few  = 2", ""));
  files.put("experiments/scales/huge.toml", "[words]\nfew = 64\n");
  EXPECT_NE(complaint([&] { plan(files); }).find("scale tiny has no word {few}"),
            std::string::npos);
}

TEST(Plan, JobArrayHasAStageForThoseThatWait) {
  const TinyExperiments files;
  files.add(test::kStudent);
  lab::Scale scale = files.scale();
  const std::vector<PlannedRun> runs = plan(files);
  EXPECT_NE(complaint([&] { lab::slurm_script(scale, {files.folder()}, runs); }).find("[slurm]"),
            std::string::npos);
  scale.slurm = {{"nodes", 2}, {"gpus_per_node", 4}, {"tflops", 1e-9}, {"dollars_per_gpu_hour", 3}};
  const std::string script = lab::slurm_script(scale, {files.folder()}, runs);
  EXPECT_NE(script.find("--array=0-3 --nodes=2 --gpus-per-node=4"), std::string::npos) << script;
  EXPECT_NE(script.find("--dependency=afterok:$stage1 "), std::string::npos);
  EXPECT_NE(script.find("--array=0-1"), std::string::npos);
  EXPECT_EQ(script.find("stage3"), std::string::npos);
}

}  // namespace
}  // namespace pyramoe
