// The experiments themselves: every folder is complete and listed, every definition reads, and
// every arm's config loads at every scale. No run is started.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/file.h"
#include "lab/definition.h"
#include "lab/plan.h"
#include "moe/student.h"

namespace pyramoe::lab {
namespace {

const std::string kExperiments = std::string(PYRAMOE_SOURCE_DIR) + "/experiments";

// Folders with an experiment.toml, and the places kept for the inference figures.
std::vector<std::string> folders(bool experiments) {
  std::vector<std::string> found;
  for (const std::string& name : list_folder(kExperiments, Exit::config)) {
    const bool defined = path_exists(kExperiments + "/" + name + "/experiment.toml");
    const bool place = name.starts_with("inference_");
    if (experiments ? defined : place) found.push_back(name);
  }
  return found;
}

// The runs of one seed; planned once.
const std::vector<PlannedRun>& plan_of(const std::string& name, const std::string& scale) {
  static std::map<std::string, std::vector<PlannedRun>> plans;
  const auto found = plans.find(name + " " + scale);
  if (found != plans.end()) return found->second;
  const std::string folder = kExperiments + "/" + name;
  PlanOptions options;
  options.seeds = 1;
  return plans[name + " " + scale] =
             plan_runs(read_definition(folder), read_scale(folder, scale), options);
}

TEST(Folders, HoldEveryAblation) {
  const std::set<std::string> needed = {"fig1_dense_vs_moe",
                                        "table2_zero_shot",
                                        "table3_training_cost",
                                        "fig2_first_vs_second_half",
                                        "fig2_top2_vs_residual",
                                        "fig4_pyramid_residual",
                                        "fig5_fig6_staged_kd",
                                        "table5_mos",
                                        "gating",
                                        "residual_mix",
                                        "dispatch",
                                        "auto_kd",
                                        "dynamic_experts",
                                        "int8_experts",
                                        "domains"};
  std::set<std::string> missing = needed;
  for (const std::string& name : folders(true)) missing.erase(name);
  EXPECT_TRUE(missing.empty()) << "no experiments/" << *missing.begin() << "/experiment.toml";
  EXPECT_EQ(folders(false).size(), 6u) << "one place for each of the figures 10 to 15";
}

TEST(Folders, AreExplainedAndListed) {
  const std::string index = read_file(kExperiments + "/README.md", 1 << 20, Exit::config);
  for (const bool experiments : {true, false}) {
    for (const std::string& name : folders(experiments)) {
      EXPECT_TRUE(path_exists(kExperiments + "/" + name + "/README.md")) << name;
      EXPECT_NE(index.find("(" + name + ")"), std::string::npos)
          << "experiments/README.md does not link " << name;
    }
  }
}

// Who reads the numbers wants to know what they come to.
TEST(Folders, WithResultsSayWhatCameOut) {
  for (const std::string& name : folders(true)) {
    if (!path_exists(kExperiments + "/" + name + "/results.json")) continue;
    const std::string text = read_file(kExperiments + "/" + name + "/README.md");
    EXPECT_NE(text.find("**What came out**"), std::string::npos) << name << "/README.md";
  }
}

TEST(Folders, EveryArmLoadsAtEveryScale) {
  for (const std::string& name : folders(true)) {
    const std::string folder = kExperiments + "/" + name;
    const Definition definition = read_definition(folder);
    EXPECT_FALSE(definition.claims.empty()) << name << " claims nothing";
    EXPECT_FALSE(definition.paper.text.empty()) << name << " has no words of the paper";
    for (const char* scale_name : {"smoke", "cpu", "small", "paper"}) {
      size_t arms = 0;
      for (const Arm& arm : definition.arms) arms += takes_part(arm.scales, scale_name) ? 1 : 0;
      ASSERT_NO_THROW(plan_of(name, scale_name)) << name << " at " << scale_name;
      EXPECT_EQ(plan_of(name, scale_name).size(), arms) << name;
    }
  }
}

// Both arms of a claim take part wherever it is judged; a typo in a {word} leaves its braces.
TEST(Folders, ClaimsAndLabelsMakeSense) {
  for (const std::string& name : folders(true)) {
    const Definition definition = read_definition(kExperiments + "/" + name);
    for (const char* scale_name : {"cpu", "small", "paper"}) {
      const Scale scale = read_scale(kExperiments + "/" + name, scale_name);
      std::set<std::string> arms;
      for (const PlannedRun& run : plan_of(name, scale_name)) {
        arms.insert(run.arm);
        EXPECT_EQ(run.label.find('{'), std::string::npos) << name << ": " << run.label;
      }
      for (const Claim& claim : definition.claims) {
        if (!takes_part(claim.scales, scale_name)) continue;
        EXPECT_NO_THROW(fill_words(claim.text, scale, name));
        EXPECT_EQ(arms.count(claim.left), 1u) << name << ": " << claim.text;
        if (claim.measure != Measure::value) {
          EXPECT_EQ(arms.count(claim.right), 1u) << name << ": " << claim.text;
        }
      }
    }
  }
}

// What the design counts on: equal models of different folders are one run, trained once.
TEST(Folders, SharedArmsAreOneRun) {
  const auto hash_of = [](const std::string& name, const std::string& arm, const char* scale) {
    for (const PlannedRun& run : plan_of(name, scale)) {
      if (run.arm == arm) return run.hash;
    }
    return std::string("none");
  };
  const std::vector<std::vector<std::string>> shared = {
      {"fig1_dense_vs_moe", "dense", "fig2_first_vs_second_half", "dense"},
      {"fig1_dense_vs_moe", "moe_large", "fig4_pyramid_residual", "moe_large"},
      {"fig1_dense_vs_moe", "dense_big", "table3_training_cost", "dense_big"},
      {"fig4_pyramid_residual", "moe_small", "fig2_top2_vs_residual", "moe_small"},
      {"fig4_pyramid_residual", "residual", "fig2_top2_vs_residual", "residual"},
      {"fig4_pyramid_residual", "residual", "residual_mix", "residual"},
      {"fig4_pyramid_residual", "pr_moe", "table5_mos", "pr_moe"},
      {"fig4_pyramid_residual", "moe_small", "gating", "moe_small"},
      {"fig2_top2_vs_residual", "top2", "gating", "top2"},
      {"table5_mos", "kd_70", "fig5_fig6_staged_kd", "kd_70"},
      {"table5_mos", "kd_70", "table2_zero_shot", "kd_70"},
      {"fig5_fig6_staged_kd", "kd_90", "auto_kd", "kd_90"},
      {"fig1_dense_vs_moe", "moe_large", "int8_experts", "moe_large"},
      {"fig1_dense_vs_moe", "moe_large", "dispatch", "moe_large"}};
  for (const char* scale : {"smoke", "cpu", "small"}) {
    for (const auto& pair : shared) {
      EXPECT_EQ(hash_of(pair[0], pair[1], scale), hash_of(pair[2], pair[3], scale))
          << pair[0] << "/" << pair[1] << " and " << pair[2] << "/" << pair[3] << " at " << scale;
    }
  }
}

// At small every run sees at least 100 million tokens, and the student is as the teacher's cut is.
TEST(Folders, ScalesKeepTheirPromises) {
  for (const std::string scale : {"cpu", "small", "paper"}) {
    moe::ModelConfig teacher, student;
    for (const PlannedRun& run : plan_of("table5_mos", scale)) {
      if (run.arm == "pr_moe") teacher = run.config.model;
      if (run.arm == "student") student = run.config.model;
    }
    const moe::ModelConfig cut = moe::student_config(teacher, student.layers);
    EXPECT_EQ(moe::expand_experts(cut.experts, cut.layers),
              moe::expand_experts(student.experts, student.layers))
        << scale;
    EXPECT_LT(student.layers, teacher.layers);
  }
  for (const char* name : {"fig1_dense_vs_moe", "fig2_first_vs_second_half", "table5_mos",
                           "fig2_top2_vs_residual", "fig4_pyramid_residual"}) {
    for (const PlannedRun& run : plan_of(name, "small")) EXPECT_GE(run.tokens, 100e6) << run.arm;
  }
}

}  // namespace
}  // namespace pyramoe::lab
