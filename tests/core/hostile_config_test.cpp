// Bad configs, one a row: each ends with exit code 2 and a message that holds the expected words.
#include <gtest/gtest.h>

#include <chrono>

#include "core/config.h"
#include "tests/core/config_sample.h"

namespace pyramoe {
namespace {

struct Row {
  const char* toml;
  const char* expected;
};

std::string error_of(const std::string& toml, const std::vector<std::string>& overrides = {}) {
  try {
    SampleConfig config;
    apply_config(parse_config(toml, "t.toml", overrides), config);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::config) << toml;
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << toml.substr(0, 200);
  return "";
}

const Row kRows[] = {
    // wrong types
    {"model.layers = '12'",
     "t.toml:1: model.layers = \"12\": expected a whole number, got a text "
     "(write 12 without quotes)"},
    {"model.layers = 12.0", "expected a whole number, got a number (write 12)"},
    {"model.layers = 12.5", "expected a whole number, got a number"},
    {"model.layers = true", "expected a whole number, got true or false"},
    {"model.layers = [12]", "expected a whole number, got a list"},
    {"model.layers = nan", "expected a whole number"},
    {"model.layers = 'twelve'", "expected a whole number, got a text"},
    {"model.layers = 1979-05-27", "dates"},
    {"model.layers = 07:32:00", "dates"},
    {"model.layers = {a = 1}", "model.layers.a = 1: unknown key"},
    {"train.lr = 'fast'", "expected a number, got a text"},
    {"train.lr = '3e-4'", "(write 3e-4 without quotes)"},
    {"train.lr = false", "expected a number, got true or false"},
    {"train.lr = []", "expected a number, got a list"},
    {"train.lr = 9007199254740993", "expected a number, got a whole number"},
    {"moe.residual = 1", "expected true or false, got a whole number"},
    {"moe.residual = 'true'", "(write true without quotes)"},
    {"moe.residual = 'yes'", "(write true)"},
    {"moe.residual = 0.0", "expected true or false"},
    {"moe.gate = 5", "expected a text, got a whole number (put it in quotes)"},
    {"moe.gate = true", "expected a text, got true or false (put it in quotes)"},
    {"run.dir = 1.5", "expected a text"},
    {"run.dir = ['a']", "expected a text, got a list"},
    {"moe.experts = 1.5", "expected a text, got a number"},
    {"moe.experts = [0, 32]", "expected a text, got a list"},
    {"data.sources = 'a'", "expected a list such as [\"a\", \"b\"], got a text"},
    {"data.sources = [1]", "expected a text, got a whole number"},
    {"data.sources = ['a', 1]", "expected a text"},
    {"data.sources = [['a']]", "lists of lists"},
    {"data.sources = [{a = 1}]", "lists of lists or tables"},
    {"train.weights = 1.0", "expected a list such as [0.5, 0.5], got a number"},
    {"train.weights = [1, 'x']", "expected a number, got a text"},
    {"data.cuts = [1.5]", "expected a whole number"},
    {"data.cuts = true", "expected a list such as [1, 2]"},
    // out of range
    {"model.layers = 0", "model.layers = 0: must be between 1 and 9223372036854775807"},
    {"model.layers = -3", "must be between 1"},
    {"model.heads = 0", "must be at least 1"},
    {"model.heads = 101", "must be at most 100"},
    {"train.batch = 0", "must be greater than 0"},
    {"train.lr = 0", "must be greater than 0"},
    {"train.lr = -1e-3", "must be greater than 0"},
    {"train.lr = nan", "must be a finite number"},
    {"train.lr = inf", "must be a finite number"},
    {"train.lr = -inf", "must be a finite number"},
    {"train.share = 1.0000001", "must be between 0 and 1"},
    {"train.share = -0.1", "must be between 0 and 1"},
    {"train.weights = [1.0, inf]", "must be a finite number"},
    {"moe.gate = 'top1'", "moe.gate = \"top1\": must be one of \"softmax\", \"sigmoid_bias\""},
    {"moe.gate = ''", "must be one of"},
    {"moe.gate = 'Softmax'", "must be one of"},
    {"data.cuts = [1, 13]", "must be no 13"},
    {"train.micro_batch = 3", "t.toml:1: train.micro_batch = 3: must divide train.batch = 16"},
    {"train.batch = 7\ntrain.micro_batch = 2", "t.toml:2: train.micro_batch = 2"},
    // unknown keys
    {"model.layer = 12", "unknown key; did you mean model.layers?"},
    {"modle.layers = 12", "unknown key; did you mean model.layers?"},
    {"model.n_layer = 12", "unknown key; did you mean model.layers?"},
    {"n_layer = 12", "n_layer = 12: unknown key; did you mean model.layers?"},
    {"n_head = 12", "did you mean model.heads?"},
    {"model.num-attention-heads = 12", "did you mean model.heads?"},
    {"max_iters = 5", "unknown key"},
    {"learning_rate = 1.0", "did you mean train.lr?"},
    {"optim.lr = 1.0", "did you mean train.lr?"},
    {"train.learningrate = 1.0", "unknown key"},
    {"num_experts = 8", "did you mean moe.experts?"},
    {"layers = 3", "did you mean model.layers?"},
    {"laers = 3", "did you mean model.layers?"},
    {"Model.Layers = 3", "did you mean model.layers?"},
    {"moe.gates = 'softmax'", "did you mean moe.gate?"},
    {"train.mirco_batch = 3", "did you mean train.micro_batch?"},
    {"out_dir = 'x'", "did you mean run.dir?"},
    {"qqqqqqqq.zzzzzz = 1", "qqqqqqqq.zzzzzz = 1: unknown key"},
    {"model = 3", "model = 3: unknown key"},
    {"[[model]]\nlayers = 3", "lists of lists or tables"},
    {"\"model.layers\".x = 1", "unknown key"},
    {"'' = 1", "unknown key"},
    {"\"\\u0007\" = 1", "\\x07 = 1: unknown key"},
    // not TOML
    {"model.layers 12", "t.toml:1:"},
    {"\n\nmodel.layers = ", "t.toml:3:"},
    {"= 12", "not valid TOML"},
    {"model.layers = 12 13", "not valid TOML"},
    {"model.layers = 1\nmodel.layers = 2", "not valid TOML"},
    {"[model]\nlayers = 1\n[model]\nheads = 1", "not valid TOML"},
    {"[model", "not valid TOML"},
    {"moe.gate = \"softmax", "not valid TOML"},
    {"moe.gate = 'soft\nmax'", "not valid TOML"},
    {"moe.gate = softmax", "not valid TOML"},
    {"model.layers = 0x", "not valid TOML"},
    {"model.layers = 012", "not valid TOML"},
    {"model.layers = 9223372036854775808", "not valid TOML"},
    {"train.lr = .5", "not valid TOML"},
    {"train.lr = 5.", "not valid TOML"},
    {"moe.residual = True", "not valid TOML"},
    {"data.sources = ['a'", "not valid TOML"},
    {"data.sources = ['a',,]", "not valid TOML"},
    {"r\xd2\x96 = 1", "t.toml:1: not valid TOML: \"\xd2\x96\" must be inside quotes"},
    {"model.layers = \xc2\xa0 12", "must be inside quotes"},
    {"\xef\xbb\xbfmodel.layers = 0", "must be between 1"},
    {"moe.gate = \"\\\xc3\xa9\"", "an unknown escape"},
    {"moe.gate = \"\"\"\\\xc3\xa9\"\"\"", "an unknown escape"},
    {"moe.gate = 'abc", "a text without its closing quotes"},
    {"moe.gate = \"abc\\\"", "a text without its closing quotes"},
    {"moe.gate = \"\"\"abc\"\"", "a text without its closing quotes"},
    {"# fine\n\nmodel.layers = 3 # \xff", "t.toml:3: not valid TOML: the text is not UTF-8"},
    {"{}", "not valid TOML"},
    {"{\"model\": {\"layers\": 3}}", "not valid TOML"},
    {"moe.gate = \"\xff\xfe\"", "not valid TOML"},
    {"moe.gate = \"\\ud800\"", "not valid TOML"},
    {"\x01", "not valid TOML"},
    // include
    {"include = 3", "t.toml:1: include must be a list of file names"},
    {"include = [3]", "include must be a list of file names"},
    {"include = ['a.toml']", "include is not possible here"},
    {"a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r = 1",
     "t.toml:1: not valid TOML: a key of more than 16 parts"},
};

TEST(HostileConfig, EveryRowGivesItsMessage) {
  EXPECT_GE(std::size(kRows), 100u);
  for (const Row& row : kRows) {
    const std::string text = error_of(row.toml);
    EXPECT_NE(text.find(row.expected), std::string::npos)
        << row.toml << "\n  said:     " << text << "\n  expected: " << row.expected;
    EXPECT_LT(text.size(), 800u) << row.toml;
  }
}

TEST(HostileConfig, OverridesGiveTheirMessage) {
  const Row rows[] = {
      {"model.layers", "expected key=value such as model.layers=12, got \"model.layers\""},
      {"", "expected key=value"},
      {"=3", "expected key=value"},
      {"--model.layers 3", "expected key=value"},
      {"model layers=3", "expected key=value"},
      {".layers=3", "expected key=value"},
      {"model..layers=3", "expected key=value"},
      {"model.layers=", "command line: model.layers = \"\": expected a whole number, got a text"},
      {"model.layers=x", "expected a whole number, got a text"},
      {"model.layers=1e3", "expected a whole number, got a number (write 1000)"},
      {"model.layers=0", "must be between 1"},
      {"model.layers=1\nrun.dir=x", "expected a whole number, got a text"},
      {"train.lr=.5", "expected a number, got a text"},
      {"train.lr=1,5", "expected a number, got a text"},
      {"moe.residual=True", "expected true or false, got a text (write true)"},
      {"moe.gate=top1", "must be one of"},
      {"n_embd=3", "command line: n_embd = 3: unknown key"},
      {"run.dir=\xff", "is not UTF-8"},
      {"data.cuts=1,x", "expected a list such as [1, 2], got a text"},
      {"data.cuts=13", "must be no 13"},
      {"include=x.toml", "include = \"x.toml\": unknown key"},
  };
  for (const Row& row : rows) {
    const std::string text = error_of("", {row.toml});
    EXPECT_NE(text.find(row.expected), std::string::npos) << row.toml << "\n  said: " << text;
  }
}

TEST(HostileConfig, AllProblemsComeInOneMessage) {
  const std::string text = error_of("model.layers = 0\nn_head = 3\ntrain.lr = 'x'\n");
  EXPECT_NE(text.find("3 problems"), std::string::npos) << text;
  for (const char* part : {"t.toml:1: model.layers", "t.toml:2: n_head", "t.toml:3: train.lr"})
    EXPECT_NE(text.find(part), std::string::npos) << text;
}

// What would take long, much memory or much stack is refused early.
TEST(HostileConfig, BigAndDeepTextsAreRefusedFast) {
  const auto many = [](const std::string& piece, int64_t count) {
    std::string text;
    for (int64_t i = 0; i < count; ++i) text += piece;
    return text;
  };
  std::string many_keys;
  for (int i = 0; i < 60000; ++i) many_keys += cat("key", i, " = 1\n");
  const std::string texts[] = {
      many("a", 2 << 20),
      cat(many("a.", 400000), "a = 1"),
      cat("[", many("a.", 400000), "a]"),
      cat("[[", many("\"a\".", 200000), "a]]"),
      cat("x = ", many("[", 500000)),
      cat("x = ", many("[", 200), many("]", 200)),
      cat("x = ", many("{a=", 200000)),
      cat("x = ", many("{a.b.c.d.e.f=", 12), "1", many("}", 12)),
      many_keys,
      many("[[a]]\n", 100000),
      cat("x = \"", many("\\u00e9", 150000), "\""),
      cat("model.layers = ", many("9", 100000)),
      cat("train.lr = 0.", many("0", 900000), "x"),
      cat("x = '", many("'", 900000)),
      cat("\"", many("k", 900000), "\" = 1"),
      std::string(1000, '\0'),
  };
  for (const std::string& text : texts) {
    const auto start = std::chrono::steady_clock::now();
    const std::string message = error_of(text);
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    EXPECT_LT(time.count(), 5.0) << text.substr(0, 40);  // seconds; far less without sanitizers
    EXPECT_LT(message.size(), 10000u);
  }
}

}  // namespace
}  // namespace pyramoe
