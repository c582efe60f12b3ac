// Validation against one window at a time by hand, and what a run opens for it: which tokens are
// held back, how many windows are read, and how domains share the training samples.
#include "train/evaluate.h"

#include <cmath>

#include "data/token_file.h"
#include "tests/train/support.h"
#include "train/open_data.h"

namespace pyramoe {
namespace {

// Random numbers below `vocab`, from a rule.
std::string token_file(const std::string& path, int64_t count, int64_t vocab = 64) {
  data::TokenFileWriter writer(path, vocab, 0);
  std::vector<int32_t> tokens;
  uint32_t state = 7;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525 + 1013904223;
    tokens.push_back(static_cast<int32_t>((state >> 16) % static_cast<uint32_t>(vocab)));
  }
  writer.write(tokens);
  writer.commit();
  return path;
}

// Dropout, noise and little capacity: in validation none of them may show.
train::RunConfig config_of(const test::ScratchFolder& scratch,
                           const std::vector<std::string>& sources) {
  train::RunConfig config = test::small_config(scratch.path("run"));
  config.train.dtype = "f64";
  config.train.eval_sequences = 0;
  config.model.dropout = 0.3;
  config.model.capacity_factor = 0.5;
  config.data.synthetic = false;
  config.data.sources = sources;
  config.data.val_fraction = 0.5;
  return config;
}

using Loads = std::vector<std::vector<int64_t>>;

// The sum of the losses of one window; adds to `load`.
double loss_of(nn::Gpt& model, const data::Batch& window, Loads& load) {
  const NoGrad no_grad;
  nn::Context context;
  const Tensor tokens = Tensor::from(window.tokens, {1, window.context});
  const Tensor logits = model.forward(tokens, context).logits.value();
  double sum = 0;
  for (int64_t t = 0; t < window.context; ++t) {
    const double* row = logits.data<double>() + t * logits.dim(1);
    double total = 0;
    for (int64_t v = 0; v < logits.dim(1); ++v) total += std::exp(row[v]);
    sum += std::log(total) - row[window.targets[static_cast<size_t>(t)]];
  }
  load.resize(context.stats.size());
  for (size_t i = 0; i < load.size(); ++i) {
    const std::vector<double> counts = context.stats[i].load.to_vector();
    load[i].resize(counts.size());
    for (size_t e = 0; e < counts.size(); ++e) load[i][e] += static_cast<int64_t>(counts[e]);
  }
  return sum;
}

TEST(Evaluate, IsTheMeanOverTheTokensOfEveryWindow) {
  const test::ScratchFolder scratch;
  // 131 windows are more than go through the model at once, and no multiple of that.
  const train::RunConfig config =
      config_of(scratch, {token_file(scratch.path("long.tok"), 2 * (131 * 16 + 1)),
                          token_file(scratch.path("short.tok"), 2 * (5 * 16 + 1))});
  train::Trainer trainer(config, kCpu);
  for (int step = 0; step < 3; ++step) trainer.step();
  const train::OpenData open = train::open_data(config);
  ASSERT_EQ(open.validation->size(), 136);
  const train::EvalResult found = trainer.evaluate();
  double total = 0;
  for (int64_t d = 0; d < 2; ++d) {
    Loads load;
    double sum = 0;
    for (int64_t w = open.validation->begin(d); w < open.validation->end(d); ++w) {
      sum += loss_of(trainer.model(), open.validation->windows(w, 1), load);
    }
    const int64_t tokens = (open.validation->end(d) - open.validation->begin(d)) * 16;
    const train::DomainResult& domain = found.domains.at(d == 0 ? "long" : "short");
    EXPECT_EQ(domain.tokens, tokens);
    EXPECT_NEAR(domain.loss, sum / static_cast<double>(tokens), 1e-12) << d;
    EXPECT_EQ(domain.load, load) << d;
    total += sum;
  }
  EXPECT_EQ(found.tokens, 136 * 16);
  EXPECT_NEAR(found.loss, total / (136 * 16), 1e-12);
}

TEST(Evaluate, ADomainWithNothingHeldBackHasNoLoss) {
  const test::ScratchFolder scratch;
  train::RunConfig config = config_of(scratch, {token_file(scratch.path("long.tok"), 5000),
                                                token_file(scratch.path("short.tok"), 60)});
  config.data.val_fraction = 0.01;
  const train::EvalResult found = train::Trainer(config, kCpu).evaluate();
  EXPECT_EQ(found.domains.count("long"), 1u);
  EXPECT_EQ(found.domains.count("short"), 0u) << "a loss of zero would be a lie";
}

TEST(OpenData, SharesFollowSizesOrWeightsAndTheConfigSaysWhatIsHeldBack) {
  const test::ScratchFolder scratch;
  train::RunConfig config = config_of(scratch, {token_file(scratch.path("a.tok"), 3000),
                                                "b=" + token_file(scratch.path("x.tok"), 1000)});
  config.data.val_fraction = 0.25;
  config.train.eval_sequences = 3;
  const auto share_of_b = [&] {
    const train::OpenData open = train::open_data(config);
    EXPECT_EQ(open.corpus->names(), (std::vector<std::string>{"a", "b"}));
    EXPECT_EQ(open.corpus->domains()[0].validation.size(), 750);
    EXPECT_EQ(open.validation->size(), 6);
    const data::Batch batch = open.batches->samples(0, 400);
    return std::count(batch.domain.begin(), batch.domain.end(), 1);
  };
  EXPECT_EQ(share_of_b(), 100);
  config.data.weights = {1, 3};
  EXPECT_EQ(share_of_b(), 300);
}

TEST(OpenData, AFileForValidationLeavesTheSourceWhole) {
  const test::ScratchFolder scratch;
  train::RunConfig config = config_of(
      scratch, {token_file(scratch.path("a.tok"), 3000), token_file(scratch.path("b.tok"), 1000)});
  config.data.validation = {token_file(scratch.path("av.tok"), 400), config.data.sources[1]};
  const train::OpenData open = train::open_data(config);
  const std::vector<data::Domain>& domains = open.corpus->domains();
  EXPECT_EQ(open.corpus->names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(domains[0].train.size(), 3000);
  EXPECT_EQ(domains[0].validation.size(), 400);
  EXPECT_EQ(domains[0].validation.from, scratch.path("av.tok"));
  EXPECT_EQ(domains[1].train.size(), 1000);
  EXPECT_EQ(domains[1].validation.size(), 1000);
}

}  // namespace
}  // namespace pyramoe
