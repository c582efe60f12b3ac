// results.md and the summary say what the numbers say; finished runs are taken in by their hash;
// and what is committed under experiments/ is what its results.json gives, byte for byte.
#include "lab/experiment_report.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "core/file.h"
#include "tests/core/temp_folder.h"
#include "tests/lab/made_up_results.h"
#include "tests/lab/tiny_experiment.h"

namespace pyramoe::lab {
namespace {

Claim claim_of(const std::string& text, const std::string& left, const std::string& right,
               double margin) {
  Claim claim;
  claim.text = text;
  claim.left = left;
  claim.right = right;
  claim.margin = margin;
  return claim;
}

Experiment with_claims() {
  Experiment e = made_up_experiment(pyramid_arms());
  e.definition.claims = {
      claim_of("MoE-{large} is better", "moe_large", "moe_small", 0),
      claim_of("MoE-4 is better", "moe_small", "moe_large", 0),
      claim_of("a claim that is as good as its margin", "pr_moe", "moe_large", 0.008)};
  e.definition.paper = {"Figure 4.", {"model", "loss | text"}, {{"a", "1"}, {"b|c", "2"}}};
  return e;
}

bool has(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}

TEST(ResultsPage, SaysWhatTheNumbersSay) {
  const Experiment e = with_claims();
  const std::string page = results_markdown(e);
  EXPECT_TRUE(has(page, "# Made up\n\n**Does the report say what the numbers say?**\n")) << page;
  EXPECT_TRUE(has(page, "|  | n | parameters | loss | tokens/s | dropped |")) << page;
  const Interval loss = interval_of_arm(e.results, "cpu", "moe_large", "loss");
  EXPECT_TRUE(
      has(page, fmt::format("| MoE-16 | 3 | 13.1 M | {:.4f} ± {:.4f} |", loss.mean, loss.half())))
      << page;
  EXPECT_TRUE(has(page, "- **holds**: MoE-16 is better.<br>loss of MoE-16 minus that of MoE-4 = -"))
      << page;
  EXPECT_TRUE(has(page, "- **does not hold**: MoE-4 is better.")) << page;
  EXPECT_TRUE(has(page, "- **not decided**: a claim that is")) << page;
  EXPECT_TRUE(has(page, "![Made up, cpu](figure_cpu.svg)")) << page;
  EXPECT_TRUE(
      has(page, "15 runs on cpu, seeds 1, 2, 3; 1 M tokens each; 3.4 M to 13.1 M parameters"))
      << page;
  EXPECT_TRUE(has(page, "| model | loss \\| text |\n|---|---:|\n| a | 1 |\n| b\\|c | 2 |")) << page;
  EXPECT_EQ(page, results_markdown(with_claims()));
}

TEST(ResultsPage, SummaryCountsVerdicts) {
  Experiment none = made_up_experiment({});
  none.definition.title = "Later";
  const std::string table = summary_markdown({with_claims(), none}, "experiments");
  EXPECT_EQ(table,
            "| experiment | question | claims at cpu |\n|---|---|---|\n"
            "| [Made up](experiments/made_up/results.md) | Does the report say what the numbers "
            "say? | 1 holds, 1 does not, 1 not decided |\n"
            "| [Later](experiments/made_up) | Does the report say what the numbers say? |  |\n");
}

TEST(ResultsPage, SmokeIsShownOnlyWhereItIsAlone) {
  Experiment e = made_up_experiment(pyramid_arms(), 1);
  Experiment both = e;
  for (RunResult& run : e.results.runs) run.scale = "smoke";
  for (const RunResult& run : e.results.runs) add_result(both.results, run);
  EXPECT_EQ(shown_scales(e), std::vector<std::string>{"smoke"});
  EXPECT_EQ(shown_scales(both), std::vector<std::string>{"cpu"});
  EXPECT_EQ(report_files(both).count("figure_smoke.svg"), 0u);
}

TEST(ResultsPage, ArmsThatWereRenamedAreLeftOut) {
  Experiment e = made_up_experiment(pyramid_arms(), 1);
  e.definition.arms.erase(e.definition.arms.begin());
  EXPECT_FALSE(has(results_markdown(e), "| MoE-4 |"));
  EXPECT_EQ(e.results.runs.size(), 5u);  // every run ever used stays in results.json
}

TEST(Report, WritesChecksAndCleansUp) {
  const TempFolder temp;
  const Experiment e = with_claims();
  write_results(temp / "results.json", e.results);
  write_file(temp / "figure_old.svg", "<svg/>");
  EXPECT_EQ(check_report(e, temp.path()).size(), 3u);  // two missing, one too many
  write_report(e, temp.path());
  EXPECT_TRUE(check_report(e, temp.path()).empty());
  EXPECT_FALSE(path_exists(temp / "figure_old.svg"));
  for (const char* name : {"results.md", "figure_cpu.svg", "results.json"}) {
    const std::string good = read_file(temp / name);
    write_file(temp / name, good + " ");
    const std::vector<std::string> wrong = check_report(e, temp.path());
    ASSERT_EQ(wrong.size(), 1u);
    EXPECT_TRUE(has(wrong[0], name) && has(wrong[0], "is not what results.json gives"));
    write_file(temp / name, good);
  }
}

// A finished run as the engine leaves it, found by the hash of its arm.
TEST(Report, TakesInFinishedRunsOfItsOwnArms) {
  const test::TinyExperiments tiny;
  Experiment e = read_experiment(tiny.folder());
  PlanOptions options;
  options.runs = tiny.path("runs");
  options.seeds = 2;
  for (const PlannedRun& plan : plan_runs(e.definition, e.scales.at("tiny"), options)) {
    RunResult run = made_up_run({"name_of_another_experiment", ""}, 0, 7);
    run.config_hash = plan.hash;
    make_folders(plan.folder);
    if (plan.arm == "moe" && plan.seed == 2) continue;  // not finished
    write_results(plan.folder + "/result.json", {{run}});
  }
  make_folders(tiny.path("runs/tiny/0000000000000000-1"));  // of another experiment
  EXPECT_EQ(collect_results(e, options), 3);
  ASSERT_EQ(e.results.runs.size(), 3u);
  EXPECT_EQ(e.results.runs[0].arm, "dense");
  EXPECT_EQ(e.results.runs[1].seed, 2);
  EXPECT_EQ(e.results.runs[2].arm, "moe");
  EXPECT_EQ(e.results.runs[2].scale, "tiny");
  EXPECT_EQ(collect_results(e, options), 0);  // nothing new
  options.length = 2;                         // other settings: other hashes
  EXPECT_EQ(collect_results(e, options), 0);
}

TEST(Report, BlockOfAPage) {
  EXPECT_EQ(block_of("a\n<!-- x -->\nb\nc\n<!-- /x -->\nd", "x"), "b\nc\n");
  EXPECT_THROW(block_of("a", "x"), Error);
  EXPECT_THROW(block_of("<!-- /x --> <!-- x -->\n", "x"), Error);
  EXPECT_THROW(block_of("<!-- x -->\n<!-- x -->\n<!-- /x -->", "x"), Error);
}

const std::string kRoot = PYRAMOE_SOURCE_DIR;

TEST(CommittedReports, AreWhatTheirResultsGive) {
  for (const std::string& folder : experiments_in(kRoot + "/experiments")) {
    const Experiment e = read_experiment(folder);
    for (const std::string& line : check_report(e, folder)) {
      ADD_FAILURE() << line << "; run pyramoe report on it and commit what it writes";
    }
    // A page or figure without results.json could say anything.
    if (!e.results.runs.empty()) continue;
    for (const char* name : {"results.md", "figure_cpu.svg", "figure_small.svg"}) {
      EXPECT_FALSE(path_exists(folder + "/" + name)) << folder << "/" << name;
    }
  }
}

TEST(CommittedReports, ReadmeShowsTheVerdicts) {
  const std::string page = read_file(kRoot + "/README.md");
  std::vector<Experiment> all;
  bool any = false;
  for (const std::string& folder : experiments_in(kRoot + "/experiments")) {
    all.push_back(read_experiment(folder));
    any |= !all.back().results.runs.empty();
  }
  if (page.find("<!-- verdicts -->") == std::string::npos && !any) {
    GTEST_SKIP() << "no experiment has results yet, and README.md shows none";
  }
  EXPECT_EQ(block_of(page, "verdicts"), summary_markdown(all, "experiments"))
      << "pyramoe report experiments --markdown prints what belongs there";
}

}  // namespace
}  // namespace pyramoe::lab
