// The table's numbers and its three forms.
#include <gtest/gtest.h>

#include <cmath>

#include "report/table.h"
#include "tests/report/support.h"

namespace pyramoe {
namespace {

using report::RunReport;

std::vector<RunReport> both(const RunFolders& folders) {
  return {report::read_run(folders.dense), report::read_run(folders.moe)};
}

const report::TableRow& row(const std::vector<report::TableRow>& table, const std::string& title) {
  for (const report::TableRow& r : table) {
    if (r.title == title) return r;
  }
  throw std::runtime_error("no row " + title);
}

TEST(ReportTable, HasTheNumbersOfTheRuns) {
  const RunFolders folders;
  const std::vector<RunReport> runs = both(folders);
  const auto table = report::make_table(runs);
  using Cells = std::vector<std::string>;
  EXPECT_EQ(row(table, "validation loss").cells, (Cells{"2.5000", "2.4000"}));
  EXPECT_EQ(row(table, "validation loss").best, 1);
  EXPECT_EQ(row(table, "  bible").cells, (Cells{"2.2500", "2.0000"}));
  EXPECT_EQ(row(table, "  code").best, 0);
  EXPECT_EQ(row(table, "perplexity").cells, (Cells{"12.18", "11.02"}));
  EXPECT_EQ(row(table, "training tokens").cells, (Cells{"10,000", "10,000"}));
  EXPECT_EQ(row(table, "training time").cells, (Cells{"10s", "10s"}));
  EXPECT_EQ(row(table, "tokens/s (median)").cells, (Cells{"1,051", "1,051"}));
  EXPECT_EQ(row(table, "dropped choices").cells, (Cells{"–", "25.0 %"}));
  EXPECT_EQ(row(table, "busiest expert / mean").cells, (Cells{"–", "1.20"}));
  EXPECT_EQ(row(table, "  in experts").cells[0], "0");
  EXPECT_EQ(row(table, "parameters").best, -1);
}

TEST(ReportTable, AlignsItsColumnsToTheRight) {
  const RunFolders folders;
  const std::vector<RunReport> runs = both(folders);
  const std::string text = report::to_text(runs, report::make_table(runs));
  EXPECT_NE(text.find("\nvalidation loss         2.5000    2.4000*\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\n  code                  2.7500*   2.8000\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\ndropped choices              –    25.0 %\n"), std::string::npos) << text;
}

TEST(ReportTable, MarkdownPutsTheBestInBold) {
  const RunFolders folders;
  std::vector<RunReport> runs = both(folders);
  runs[0].name = "a|b";
  const std::string text = report::to_markdown(runs, report::make_table(runs));
  EXPECT_EQ(text.rfind("| | a\\|b | moe |\n|---|---:|---:|\n", 0), 0u) << text;
  EXPECT_NE(text.find("| validation loss | 2.5000 | **2.4000** |\n"), std::string::npos) << text;
  EXPECT_NE(text.find("| – bible | 2.2500 | **2.0000** |\n"), std::string::npos) << text;
}

TEST(ReportTable, JsonHoldsUnroundedNumbersAndNull) {
  const RunFolders folders;
  std::vector<RunReport> runs = both(folders);
  runs[1].loss = std::nan("");
  const Json json = report::to_json(runs);
  EXPECT_EQ(json["runs"][0]["loss"], 2.5);
  EXPECT_EQ(json["runs"][0]["perplexity"], std::exp(2.5));
  EXPECT_TRUE(json["runs"][0]["dropped"].is_null());
  EXPECT_TRUE(json["runs"][1]["loss"].is_null());
  EXPECT_EQ(json["runs"][1]["domains"]["code"]["loss"], 2.8);
  EXPECT_EQ(json["runs"][1]["params_total"], runs[1].cost.params_total);
}

TEST(ReportTable, ALossThatIsNoNumberIsNeverTheBest) {
  const RunFolders folders;
  std::vector<RunReport> runs = both(folders);
  runs[1].loss = std::nan("");
  const auto table = report::make_table(runs);
  EXPECT_EQ(row(table, "validation loss").best, 0);
  EXPECT_EQ(row(table, "validation loss").cells[1], "–");
}

TEST(ReportTable, CountsAreShort) {
  EXPECT_EQ(report::short_count(7), "7");
  EXPECT_EQ(report::short_count(1234), "1.23 K");
  EXPECT_EQ(report::short_count(999999), "1 M");
  EXPECT_EQ(report::short_count(2.5e9), "2.5 B");
}

}  // namespace
}  // namespace pyramoe
