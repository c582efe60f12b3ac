// Figures: the same bytes for the same results, well-formed, every arm labelled inside the page,
// labels apart from each other, and numbers where the axis says they are.
#include "lab/experiment_figure.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <regex>

#include "tests/lab/made_up_results.h"

namespace pyramoe::lab {
namespace {

std::string draw(const std::vector<MadeUpArm>& arms, const std::string& figure, int64_t seeds = 3) {
  Experiment e = made_up_experiment(arms, seeds);
  e.definition.figure = figure;
  return draw_figure(e, "cpu");
}

struct Text {
  double x, y;
  std::string anchor, words;
};

std::vector<Text> texts_of(const std::string& svg) {
  static const std::regex kText("<text x=\"([-0-9.]+)\" y=\"([-0-9.]+)\"([^>]*)>([^<]*)</text>");
  std::vector<Text> out;
  for (std::sregex_iterator it(svg.begin(), svg.end(), kText), end; it != end; ++it) {
    out.push_back({std::stod((*it)[1]), std::stod((*it)[2]), (*it)[3], (*it)[4]});
  }
  return out;
}

size_t count(const std::string& text, const std::string& what) {
  size_t n = 0;
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += what.size()) ++n;
  return n;
}

double attribute(const std::string& svg, const std::string& name) {
  return std::stod(svg.substr(svg.find(" " + name + "=\"") + name.size() + 3));
}

const std::vector<std::string> kFigures = {"loss_curves", "loss_by_parameters", "bars",
                                           "bars:tokens_per_s", "bars:params_total"};

TEST(Figure, TheSameResultsGiveTheSameBytes) {
  for (const std::string& figure : kFigures) {
    EXPECT_EQ(draw(pyramid_arms(), figure), draw(pyramid_arms(), figure)) << figure;
    const bool one_for_all = figure == "bars:params_total";  // whatever the seed
    EXPECT_EQ(draw(pyramid_arms(), figure) == draw(pyramid_arms(), figure, 4), one_for_all);
  }
}

TEST(Figure, EveryArmIsLabelledInsideThePage) {
  for (const std::string& figure : kFigures) {
    for (const auto& arms : {pyramid_arms(), gating_arms()}) {
      for (const int64_t seeds : {1, 3}) {
        const std::string svg = draw(arms, figure, seeds);
        EXPECT_EQ(count(svg, "<g"), count(svg, "</g>"));
        EXPECT_EQ(svg.find("nan"), std::string::npos) << figure;
        EXPECT_EQ(svg.find("inf"), std::string::npos) << figure;
        const double width = attribute(svg, "width"), height = attribute(svg, "height");
        for (const Text& text : texts_of(svg)) {
          const bool end = text.anchor.find("end") != std::string::npos;
          const bool middle = text.anchor.find("middle") != std::string::npos;
          const double letters = report::text_width(text.words, 12);
          const double left = text.x - (end ? letters : middle ? letters / 2 : 0);
          if (text.anchor.find("rotate") == std::string::npos) {
            EXPECT_GE(left, -2) << figure << ": " << text.words;
            EXPECT_LE(left + letters, width + 2) << figure << ": " << text.words;
          }
          EXPECT_TRUE(text.y > 0 && text.y < height) << figure << ": " << text.words;
        }
        for (const MadeUpArm& arm : arms) {
          const std::string label = arm.label == "MoE-{large}" ? "MoE-16" : arm.label;
          const auto all = texts_of(svg);
          EXPECT_TRUE(std::any_of(all.begin(), all.end(),
                                  [&](const Text& text) { return text.words == label; }))
              << figure << " lacks " << label;
        }
      }
    }
  }
}

TEST(Figure, LabelsOfThirteenArmsKeepApart) {
  const std::string svg = draw(gating_arms(), "loss_curves");
  std::vector<Text> labels;
  for (const Text& text : texts_of(svg)) {
    for (const MadeUpArm& arm : gating_arms()) {
      if (text.words == arm.label) labels.push_back(text);
    }
  }
  ASSERT_EQ(labels.size(), 26u);  // in both panels
  std::sort(labels.begin(), labels.end(), [](const Text& a, const Text& b) { return a.y < b.y; });
  for (size_t i = 1; i < labels.size(); ++i) EXPECT_GE(labels[i].y - labels[i - 1].y, 13);
}

TEST(Figure, ArmsThatOnlyEvaluateHaveBars) {
  Experiment e = made_up_experiment(pyramid_arms());
  for (RunResult& run : e.results.runs) run.validation.clear();
  const std::string svg = draw_figure(e, "cpu");
  EXPECT_NE(svg.find("minus that of MoE-4"), std::string::npos);
}

TEST(Figure, AnArmWithoutItsNumberIsSaidToHaveNone) {
  Experiment e = made_up_experiment(pyramid_arms());
  for (RunResult& run : e.results.runs) {
    if (run.arm == "pyramid") run.metrics.erase("tokens_per_s");
  }
  e.definition.figure = "bars:tokens_per_s";
  EXPECT_NE(draw_figure(e, "cpu").find("no number"), std::string::npos);
}

TEST(Figure, GapsAreToTheFirstArmThatHasTheNumber) {
  Experiment e = made_up_experiment(pyramid_arms());
  for (RunResult& run : e.results.runs) {
    if (run.arm == "moe_small") run.metrics.erase("loss");
  }
  e.definition.figure = "bars:loss";
  const std::string svg = draw_figure(e, "cpu");
  EXPECT_NE(svg.find("minus that of MoE-16"), std::string::npos);
  EXPECT_NE(svg.find("no number"), std::string::npos);
}

// The gap between two arms is in the lower panel, to the digit.
TEST(Figure, TheDifferenceIsPairedBySeed) {
  Experiment e = made_up_experiment({{"a", "first", 0}, {"b", "second", 0}}, 2);
  for (RunResult& run : e.results.runs) {
    const double seed = static_cast<double>(run.seed);
    const double gap = run.arm == "b" ? 0.0625 * seed : 0;
    run.validation = {{5e5, 4 + seed + gap}, {1e6, 3 + seed + gap}};
  }
  const std::string svg = draw_figure(e, "cpu");
  EXPECT_NE(svg.find(">+0.094<"), std::string::npos);  // the mean of 0.0625 and 0.125
  EXPECT_NE(svg.find(">4.500<"), std::string::npos);
}

// What leaves a panel at the top ends there, below the words above it.
TEST(Figure, CurvesDoNotRunIntoTheHeader) {
  const std::string svg = draw(pyramid_arms(), "loss_curves");
  const std::vector<Text> texts = texts_of(svg);
  const std::string clip = svg.substr(svg.find("<clipPath"));
  const auto header = std::find_if(texts.begin(), texts.end(), [](const Text& text) {
    return text.words.starts_with("Validation loss");
  });
  ASSERT_NE(header, texts.end());
  EXPECT_GE(attribute(clip, "y") - header->y, 8);
}

TEST(Figure, SaysHowManySeedsTheMeansHave) {
  const auto has = [](const std::string& svg, const char* words) {
    return svg.find(words) != std::string::npos;
  };
  Experiment e = made_up_experiment({{"a", "first", 0}, {"b", "second", 0}}, 3);
  std::string svg = draw_figure(e, "cpu");
  EXPECT_TRUE(has(svg, "mean of 3 seeds") && has(svg, "seed by seed (3 seeds)"));
  std::erase_if(e.results.runs, [](const RunResult& r) { return r.arm == "a" && r.seed == 2; });
  svg = draw_figure(e, "cpu");
  EXPECT_TRUE(has(svg, "mean of 2 to 3 seeds") && has(svg, "seed by seed (2 seeds)"));
  EXPECT_TRUE(has(draw(pyramid_arms(), "loss_curves", 1), "Validation loss (one seed)"));
}

TEST(Figure, ANumberThatRoundsToZeroHasNoSign) {
  Experiment e = made_up_experiment({{"a", "first", 0}, {"b", "second", 0}}, 1);
  for (RunResult& run : e.results.runs) {
    const double loss = run.arm == "b" ? 3.9999 : 4;
    run.validation = {{5e5, loss}, {1e6, loss}};
  }
  EXPECT_NE(draw_figure(e, "cpu").find(">0.000<"), std::string::npos);
}

TEST(Figure, AWhiskerThatGoesOnHasAnArrow) {
  report::Svg svg(100, 100);
  draw_whisker(svg, report::Axis(0, 10, 0, 100), 50, -5, 8, false, {});
  const std::string drawn = svg.finish();
  const auto has = [&](const char* line) { return drawn.find(line) != std::string::npos; };
  EXPECT_TRUE(has("x1=\"0\" y1=\"50\" x2=\"80\" y2=\"50\""));
  EXPECT_TRUE(has("x1=\"80\" y1=\"45\" x2=\"80\" y2=\"55\""));  // a bar: it ends there
  EXPECT_FALSE(has("x1=\"0\" y1=\"45\" x2=\"0\" y2=\"55\""));
  EXPECT_TRUE(has("x1=\"0\" y1=\"50\" x2=\"7\" y2=\"46\""));
}

// Two seeds far apart: t = 12.7 makes a whisker many times as long as all that was measured.
TEST(Figure, SaysWhereWhiskersGoOn) {
  for (const char* figure : {"loss_by_parameters", "bars:loss"}) {
    EXPECT_EQ(draw(pyramid_arms(), figure).find("it goes on"), std::string::npos) << figure;
    Experiment e = made_up_experiment(pyramid_arms(), 2);
    e.definition.figure = figure;
    for (RunResult& run : e.results.runs) {
      run.metrics["loss"] = run.arm == "pr_moe" && run.seed == 2 ? 3.1 : 3;
    }
    EXPECT_NE(draw_figure(e, "cpu").find("an arrow: it goes on"), std::string::npos) << figure;
  }
}

TEST(Figure, TheHeaderOfTheNumbersIsInsideThePage) {
  Experiment e = made_up_experiment(pyramid_arms());
  for (RunResult& run : e.results.runs) run.metrics["acc.lambada_openai"] = 0;
  e.definition.figure = "bars:acc.lambada_openai";
  const std::string svg = draw_figure(e, "cpu");
  for (const Text& text : texts_of(svg)) {
    if (text.words != "lambada_openai") continue;
    EXPECT_LE(text.x + report::text_width(text.words, 12), attribute(svg, "width"));
  }
}

TEST(Figure, GapsAreOfSeedsThatBothHave) {
  Experiment e = made_up_experiment({{"a", "first", 0}, {"b", "second", 0}}, 3);
  std::erase_if(e.results.runs, [](const RunResult& r) { return r.arm == "a" && r.seed == 2; });
  const std::vector<ArmRuns> arms = arms_at(e, "cpu");
  EXPECT_EQ(gaps_to(arms[0], arms[1], "loss").size(), 2u);
  EXPECT_EQ(numbers_of(arms[1], "loss").size(), 3u);
}

TEST(Chart, SpreadMovesLabelsApartAndNoFurther) {
  using report::spread;
  EXPECT_EQ(spread({10, 50, 90}, 20, 0, 100), (std::vector<double>{10, 50, 90}));
  EXPECT_EQ(spread({50, 50}, 20, 0, 100), (std::vector<double>{40, 60}));
  EXPECT_EQ(spread({60, 50, 55}, 10, 0, 100), (std::vector<double>{65, 45, 55}));
  EXPECT_EQ(spread({98, 99, 100}, 10, 0, 100), (std::vector<double>{80, 90, 100}));
  EXPECT_EQ(spread({1, 2}, 10, 0, 100), (std::vector<double>{0, 10}));
  EXPECT_TRUE(spread({}, 10, 0, 100).empty());
}

}  // namespace
}  // namespace pyramoe::lab
