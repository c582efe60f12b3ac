// experiment.toml and scales: what is read, and that every mistake is refused with its place.
#include <gtest/gtest.h>

#include "tests/lab/tiny_experiment.h"

namespace pyramoe {
namespace {

using test::complaint;
using test::replaced;
using test::TinyExperiments;

TEST(Definition, ReadsWhatIsWritten) {
  const TinyExperiments files;
  files.add(R"(
[[arm]]
name   = "int8"
reuse  = "moe"
eval   = ["--loss", "--limit", "{few}"]
scales = ["tiny"]
[paper]
text    = "facts"
columns = ["model", "loss"]
rows    = [["a", "1"], ["b", "2"]]
)");
  const lab::Definition d = files.definition();
  EXPECT_EQ(d.name, "tiny");
  EXPECT_EQ(d.title, "Tiny");
  EXPECT_EQ(d.columns, (std::vector<std::string>{"params_total", "loss"}));
  EXPECT_EQ(d.set, (lab::Settings{{"moe.top_k", "1"}}));
  ASSERT_EQ(d.arms.size(), 3u);
  EXPECT_EQ(d.arms[1].set, (lab::Settings{{"moe.experts", "0 {few}"}}));
  EXPECT_EQ(d.arms[2].label, "int8");
  EXPECT_EQ(d.arms[2].eval, (std::vector<std::string>{"--loss", "--limit", "{few}"}));
  ASSERT_EQ(d.claims.size(), 1u);
  EXPECT_EQ(d.claims[0].side, lab::Side::below);
  ASSERT_EQ(d.paper.rows.size(), 2u);
  EXPECT_EQ(d.paper.rows[1], (std::vector<std::string>{"b", "2"}));
  const lab::Scale scale = files.scale();
  EXPECT_EQ(scale.seeds, 2);
  EXPECT_EQ(scale.words.at("few"), "2");
  EXPECT_EQ(scale.words.at("many"), "0 4");
}

struct Mistake {
  const char* from;
  const char* to;
  const char* said;
};

TEST(Definition, RefusesMistakesWithTheirPlace) {
  const TinyExperiments files;
  for (const Mistake& mistake : {
           Mistake{"title    =", "titel    =", "experiment.toml:2: titel: there is no such key"},
           Mistake{"title    = \"Tiny\"", "", "title is missing"},
           Mistake{"question = \"Does it run?\"", "", "question is missing"},
           Mistake{"label = \"Dense\"", "lable = \"Dense\"", "did you mean label"},
           Mistake{"name  = \"dense\"", "name  = \"moe\"", "two arms have the same name"},
           Mistake{"name  = \"dense\"", "name  = \"Dense!\"", "a name needs letters"},
           Mistake{"{few}\"", "{fewer}\"", "no scale has the word {fewer}"},
           Mistake{"\"0 {few}\"", "\"@student\"", "there is no arm \"student\""},
           Mistake{"\"0 {few}\"", "\"@moe\"", "in a circle: moe -> moe"},
           Mistake{"right   = \"dense\"", "right   = \"none\"", "right = \"none\" is no arm"},
           Mistake{"side    = \"below\"", "side    = \"under\"", "expected below, above or within"},
           Mistake{"margin  = 0.0", "margin  = \"0\"", "expected a number"},
           Mistake{"\"loss\"]", "\"losses\"]", "no run has the metric \"losses\""},
           Mistake{"\"loss\"]", "\"bench.step_ms\"]", "no run has the metric"},
           Mistake{"\"loss\"]", "\"loss@2\"]", "no run has the metric"},
           Mistake{"[[claim]]", "[claim]", "expected a list of tables"},
           Mistake{"source   =", "figure = \"pie\"\nsource   =", "figure = \"pie\""},
           Mistake{"source   =", "tasks = \"chess\"\nsource   =", "chess"},
           Mistake{"label = \"Dense\"", "scales = [\"huge\"]", "no scale \"huge\""},
       }) {
    files.put("experiments/tiny/experiment.toml",
              replaced(test::kTinyExperiment, mistake.from, mistake.to));
    const std::string said = complaint([&] { files.definition(); });
    EXPECT_NE(said.find(mistake.said), std::string::npos) << mistake.to << ": " << said;
  }
}

TEST(Definition, ReuseNeedsATrainedArmAndOptions) {
  const TinyExperiments files;
  for (const Mistake& mistake : {
           Mistake{"", "reuse = \"gone\"\neval = [\"--loss\"]", "there is no arm \"gone\""},
           Mistake{"", "reuse = \"moe\"", "reuse needs eval"},
           Mistake{"", "eval = [\"--loss\"]", "eval needs reuse"},
           Mistake{"", "reuse = \"moe\"\neval = [\"--loss\"]\nset = { \"moe.top_k\" = 2 }",
                   "set has no effect"},
       }) {
    files.add(cat("\n[[arm]]\nname = \"again\"\n", mistake.to, "\n"));
    const std::string said = complaint([&] { files.definition(); });
    EXPECT_NE(said.find(mistake.said), std::string::npos) << mistake.to << ": " << said;
  }
}

TEST(Scale, RefusesWhatItDoesNotKnow) {
  const TinyExperiments files;
  EXPECT_NE(complaint([&] { lab::read_scale(files.folder(), "vast"); }).find("tiny"),
            std::string::npos);
  files.put("experiments/scales/tiny.toml", replaced(test::kTinyScale, "device", "devise"));
  EXPECT_NE(complaint([&] { files.scale(); }).find("tiny.toml:2: devise"), std::string::npos);
  files.put("experiments/scales/tiny.toml", replaced(test::kTinyScale, "\"cpu\"", "\"tpu\""));
  EXPECT_NE(complaint([&] { files.scale(); }).find("expected cpu or cuda"), std::string::npos);
}

}  // namespace
}  // namespace pyramoe
