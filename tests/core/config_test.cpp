// Configuration: what is written is taken exactly, and round trips keep every bit.
#include "core/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "core/file.h"
#include "tests/core/config_sample.h"
#include "tests/core/temp_folder.h"

namespace pyramoe {
namespace {

SampleConfig read(const std::string& toml, const std::vector<std::string>& overrides = {}) {
  SampleConfig config;
  apply_config(parse_config(toml, "test.toml", overrides), config);
  return config;
}

std::string error_of(const std::string& path, const std::vector<std::string>& overrides = {}) {
  try {
    SampleConfig config;
    apply_config(load_config(path, overrides), config);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::config);
    return error.what();
  }
  ADD_FAILURE() << "no Error from " << path;
  return "";
}

TEST(Config, KeysSetFieldsAndTheRestKeepsItsDefault) {
  const SampleConfig config = read(R"(
    model.layers = 24
    [train]
    lr = 1
    weights = [1, 0.5]
    [moe]
    residual = true
    gate = "sigmoid_bias"
    experts = 32
    [data]
    sources = ["a", 'b c']
    cuts = [3, -1])");
  EXPECT_EQ(config.layers, 24);
  EXPECT_EQ(config.heads, 12);
  EXPECT_EQ(config.lr, 1.0);
  EXPECT_TRUE(config.residual);
  EXPECT_EQ(config.gate, "sigmoid_bias");
  EXPECT_EQ(config.experts, "32");
  EXPECT_EQ(config.weights, (std::vector<double>{1, 0.5}));
  EXPECT_EQ(config.inner.sources, (std::vector<std::string>{"a", "b c"}));
  EXPECT_EQ(config.inner.cuts, (std::vector<int64_t>{3, -1}));
}

TEST(Config, OverridesNeedNoQuotes) {
  const SampleConfig config =
      read("model.layers = 24\nrun.dir = 'x'",
           {"model.layers=6", "moe.experts=(0 32)*10 (0 64)*2", "run.dir=runs/a b", "train.lr=3e-4",
            "moe.residual=true", "data.sources=a,b c", "train.weights=1,2.5", "data.cuts=[7]"});
  EXPECT_EQ(config.layers, 6);
  EXPECT_EQ(config.experts, "(0 32)*10 (0 64)*2");
  EXPECT_EQ(config.dir, "runs/a b");
  EXPECT_EQ(config.lr, 3e-4);
  EXPECT_TRUE(config.residual);
  EXPECT_EQ(config.inner.sources, (std::vector<std::string>{"a", "b c"}));
  EXPECT_EQ(config.weights, (std::vector<double>{1, 2.5}));
  EXPECT_EQ(config.inner.cuts, (std::vector<int64_t>{7}));
}

TEST(Config, TextOverridesAreTakenAsTheyStand) {
  const std::pair<const char*, const char*> cases[] = {{"run.dir=", ""},
                                                       {"run.dir=12", "12"},
                                                       {"run.dir=1e3", "1e3"},
                                                       {"run.dir=true", "true"},
                                                       {"run.dir=\"q\"", "q"},
                                                       {"run.dir='q'", "q"},
                                                       {"run.dir=a=b", "a=b"},
                                                       {"run.dir=a # b", "a # b"},
                                                       {"run.dir=[1]", "[1]"},
                                                       {"run.dir=2024-01-01", "2024-01-01"},
                                                       {"run.dir={a=1}", "{a=1}"},
                                                       {"run.dir=x\ny=1", "x\ny=1"},
                                                       {"run.dir=\"\"\"", "\"\"\""}};
  for (const auto& [override, expected] : cases)
    EXPECT_EQ(read("", {override}).dir, expected) << override;
}

TEST(Config, TheLastOverrideWins) {
  EXPECT_EQ(read("", {"model.layers=6", "model.layers=7"}).layers, 7);
}

TEST(Config, IncludesComeFirstAndLaterOnesWin) {
  const TempFolder folder;
  make_folders(folder / "base");
  write_file(folder / "base/a.toml", "model.layers = 1\nmodel.heads = 1\nrun.dir = 'a'");
  write_file(folder / "base/b.toml", "include = 'c.toml'\nmodel.heads = 2");
  write_file(folder / "base/c.toml", "model.layers = 3\nmodel.heads = 3\ntrain.lr = 0.125");
  write_file(folder / "main.toml", "run.dir = 'main'\ninclude = ['base/a.toml', 'base/b.toml']\n");
  SampleConfig config;
  apply_config(load_config(folder / "main.toml", {"train.lr=0.5"}), config);
  EXPECT_EQ(config.layers, 3);  // c, by way of b, after a
  EXPECT_EQ(config.heads, 2);   // b's own keys after its include
  EXPECT_EQ(config.dir, "main");
  EXPECT_EQ(config.lr, 0.5);
  const ConfigSource source = load_config(folder / "main.toml");
  EXPECT_EQ(source.find("train.lr")->origin, folder / "base/c.toml" + ":3");
}

TEST(Config, IncludesThatFailNameBothFiles) {
  const TempFolder folder;
  write_file(folder / "main.toml", "include = ['none.toml']");
  const std::string missing = error_of(folder / "main.toml");
  EXPECT_NE(missing.find("/main.toml"), std::string::npos) << missing;
  EXPECT_NE(missing.find("/none.toml"), std::string::npos) << missing;

  write_file(folder / "a.toml", "include = ['b.toml']");
  write_file(folder / "b.toml", "include = ['./a.toml']");
  EXPECT_NE(error_of(folder / "a.toml").find("circle"), std::string::npos);
  write_file(folder / "self.toml", "include = ['self.toml']");
  EXPECT_NE(error_of(folder / "self.toml").find("circle"), std::string::npos);

  // 2^30 files by doubling.
  for (int i = 0; i < 15; ++i)
    write_file(folder / cat("d", i), cat("include = ['d", i + 1, "', 'd", i + 1, "']"));
  write_file(folder / "d15", "");
  EXPECT_NE(error_of(folder / "d0").find("200 in all"), std::string::npos);
  for (int i = 0; i < 20; ++i) write_file(folder / cat("e", i), cat("include = 'e", i + 1, "'"));
  EXPECT_NE(error_of(folder / "e0").find("16 includes"), std::string::npos);
  EXPECT_NE(error_of(folder / "nothing").find("No such file"), std::string::npos);
  EXPECT_NE(error_of(folder.path()).find("folder"), std::string::npos);
}

TEST(Config, ForeignLettersAreKeptInEveryKindOfText) {
  const std::pair<const char*, const char*> cases[] = {{R"("é€😀")", "é€😀"},
                                                       {R"("😀\"\\")", R"(😀"\)"},
                                                       {R"('é"\n')", R"(é"\n)"},
                                                       {"\"\"\"\né\nb\"\"\"", "é\nb"},
                                                       {R"("""a""é""""")", R"(a""é"")"},
                                                       {"\"\"\"é \\\n   b\"\"\"", "é b"},
                                                       {"'''\né\\\n\"\"\"'''", "é\\\n\"\"\""},
                                                       {"'''é'\n'''''", "é'\n''"},
                                                       {"\"\" # é", ""},
                                                       {"'' # \" ' é", ""}};
  for (const auto& [text, expected] : cases)
    EXPECT_EQ(read(cat("run.dir = ", text, "\nmodel.layers = 3\n")).dir, expected) << text;
  EXPECT_EQ(read("", {"run.dir=é"}).dir, "é");
  EXPECT_EQ(read("", {"run.dir='é'"}).dir, "é");
}

TEST(Config, ResolvedTextReadsBackTheSame) {
  SampleConfig config;
  config.layers = std::numeric_limits<int64_t>::max();
  config.inner.cuts = {std::numeric_limits<int64_t>::min(), 0, -1};
  config.experts = "tab\t \"quotes\" back\\slash \n \x01 \x7f é €";
  config.weights = {0.1, 1.0 / 3, -0.0, 1e300, 5e-324, 123456789.0, 2.2250738585072014e-308};
  config.residual = true;
  const std::string text = to_toml(config);
  const SampleConfig back = read(text);
  EXPECT_EQ(to_toml(back), text);
  EXPECT_EQ(back.layers, config.layers);
  EXPECT_EQ(back.inner.cuts, config.inner.cuts);
  EXPECT_EQ(back.experts, config.experts);
  for (size_t i = 0; i < config.weights.size(); ++i)
    EXPECT_EQ(std::bit_cast<uint64_t>(back.weights[i]), std::bit_cast<uint64_t>(config.weights[i]));
  EXPECT_EQ(config_hash(back), config_hash(config));
}

TEST(Config, DoublesOfAnyBitsRoundTrip) {
  std::mt19937_64 random(7);
  SampleConfig config;
  for (int i = 0; i < 20000; ++i) {
    const double x = std::bit_cast<double>(random());
    if (std::isfinite(x)) config.weights.push_back(x);
  }
  const SampleConfig back = read(to_toml(config));
  ASSERT_EQ(back.weights.size(), config.weights.size());
  for (size_t i = 0; i < config.weights.size(); ++i)
    ASSERT_EQ(std::bit_cast<uint64_t>(back.weights[i]), std::bit_cast<uint64_t>(config.weights[i]));
}

TEST(Config, HashFollowsTheValues) {
  SampleConfig config;
  const uint64_t before = config_hash(config);
  const uint64_t of_model = config_hash(config, {"model."});
  config.dir = "elsewhere";
  EXPECT_NE(config_hash(config), before);
  EXPECT_EQ(config_hash(config, {"model."}), of_model);
  config.layers = 13;
  EXPECT_NE(config_hash(config, {"model."}), of_model);
}

TEST(Config, DocsListEveryField) {
  const std::string table = markdown_table(SampleConfig{});
  EXPECT_NE(table.find("| `model.layers` | int | `12` | transformer blocks (between 1 and "),
            std::string::npos)
      << table;
  EXPECT_NE(table.find("| `data.sources` | list of text | `[]` | token files |"),
            std::string::npos);
  const std::string help = help_text(SampleConfig{}, "moe.");
  EXPECT_NE(help.find("moe.gate = \"softmax\""), std::string::npos) << help;
  EXPECT_EQ(help.find("model.layers"), std::string::npos);
}

TEST(Config, FieldsWithoutDocOrListedTwiceAreBugs) {
  int64_t x = 0;
  ConfigFields fields;
  fields("a.x", x, "a doc");
  EXPECT_THROW(fields("a.x", x, "again"), Error);
  EXPECT_THROW(fields("a.y", x, ""), Error);
}

// Any one character changed: an Error, or a config that is right by its own rules.
TEST(Config, MutationsOfAValidConfigNeverCrash) {
  const std::string valid =
      "include = []\n# a comment\nmodel.layers = 12\n[moe]\nexperts = \"(0 32)*2\"\n"
      "gate = 'softmax'\nresidual = true\n[train]\nlr = 3.0e-4\nweights = [1.0, 2]\n"
      "[data]\nsources = [\"a\", \"\"\"b\"\"\"]\ncuts = [1_000, 0x1f]\n";
  ASSERT_EQ(read(valid).inner.cuts, (std::vector<int64_t>{1000, 31}));
  std::mt19937 random(11);
  int64_t accepted = 0;
  const int64_t rounds = 20000;
  for (int64_t i = 0; i < rounds; ++i) {
    std::string text = valid;
    const size_t place = random() % text.size();
    switch (random() % 3) {
      case 0:
        text[place] = static_cast<char>(random());
        break;
      case 1:
        text.erase(place, 1);
        break;
      default:
        text.insert(place, 1, "\"'[]{}=.,#\n\\0a-"[random() % 16]);
    }
    try {
      const SampleConfig config = read(text);
      ASSERT_EQ(to_toml(read(to_toml(config))), to_toml(config));
      ++accepted;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), Exit::config) << text;
    }
  }
  EXPECT_GT(accepted, rounds / 50);
  EXPECT_LT(accepted, rounds * 3 / 4);
}

}  // namespace
}  // namespace pyramoe
