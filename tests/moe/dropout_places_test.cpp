// Where a model drops: the embedding, the attention's weights, and each branch before it is added;
// each by its own draws, and nowhere in evaluation.
#include "nn/mlp.h"
#include "tests/moe/support.h"

namespace pyramoe::moe {
namespace {

constexpr int64_t kBatch = 3, kLength = 8, kDim = 16;

// A dense block whose branches give `attention` and `ffn` everywhere, but for dropout.
struct Constant {
  double attention = 0, ffn = 0;
};
std::unique_ptr<nn::Block> make_block(double attention_dropout, double dropout, Constant gives) {
  const nn::Build build{DType::f64, kCpu};
  auto block = std::make_unique<nn::Block>(
      nn::AttentionOptions{kDim, 2, 0.02, 0.02, attention_dropout}, dropout,
      std::make_unique<nn::Mlp>(kDim, 4, 0.02, 0.02, build), build);
  for (const nn::Parameter* p : block->parameters()) p->var.value().zero();
  value(*block, "attention.out.bias").copy_from(Tensor::full({kDim}, DType::f64, gives.attention));
  value(*block, "ffn.down.bias").copy_from(Tensor::full({kDim}, DType::f64, gives.ffn));
  return block;
}

std::vector<double> output(nn::Block& block, bool training) {
  const NoGrad no_grad;
  nn::Context context = context_of(kBatch, kLength, training);
  return block.forward(Var(Tensor::zeros({kBatch * kLength, kDim}, DType::f64)), context)
      .y.value()
      .to_vector();
}

// Ones of which half are dropped and the others doubled: 5 standard errors.
void expect_halved(const std::vector<double>& y) {
  double kept = 0;
  for (const double v : y) {
    ASSERT_TRUE(v == 0 || v == 2) << v;
    kept += v / 2;
  }
  const auto n = static_cast<double>(y.size());
  EXPECT_NEAR(kept / n, 0.5, 2.5 / std::sqrt(n));
}

TEST(DropoutPlaces, EachBranchIsDroppedByItsOwnDraws) {
  const auto first = make_block(0, 0.5, {1, 0}), second = make_block(0, 0.5, {0, 1});
  const std::vector<double> attention = output(*first, true), ffn = output(*second, true);
  expect_halved(attention);
  expect_halved(ffn);
  int differ = 0;
  for (size_t i = 0; i < ffn.size(); ++i) differ += attention[i] != ffn[i];
  EXPECT_GT(differ, static_cast<int>(ffn.size()) / 4);
}

// All values are 1: a query's result is the sum of the weights that were kept, times two. The first
// query has one key, of weight 1.
TEST(DropoutPlaces, AttentionDropsWeightsNotResults) {
  const auto block = make_block(0.5, 0, {});
  Tensor bias = Tensor::zeros({3, kDim}, DType::f64);
  bias.rows(2, 3).copy_from(Tensor::full({1, kDim}, DType::f64, 1));
  value(*block, "attention.qkv.bias").copy_from(bias);
  Tensor one = Tensor::zeros({kDim, kDim}, DType::f64);
  for (int64_t i = 0; i < kDim; ++i) one.data<double>()[i * kDim + i] = 1;
  value(*block, "attention.out.weight").copy_from(one);
  const std::vector<double> y = output(*block, true);
  bool between = false;
  for (size_t n = 0; n < kBatch * kLength; ++n) {
    const size_t keys = n % kLength + 1;
    const double kept = y[n * kDim] / 2 * static_cast<double>(keys);
    EXPECT_NEAR(kept, std::round(kept), 1e-12) << "query " << n;
    between |= kept > 0.5 && kept < static_cast<double>(keys) - 0.5;
  }
  EXPECT_TRUE(between);
  for (const double v : output(*block, false)) EXPECT_NEAR(v, 1, 1e-12);
}

// Rows of ones have no spread, so their norm is 0; with some of them dropped it is not.
TEST(DropoutPlaces, TheEmbeddingIsDropped) {
  ModelConfig config = small_config();
  config.dim = kDim;
  config.dropout = 0.5;
  const auto model = build_model(config, nn::Build{DType::f64, kCpu}, false);
  for (const nn::Parameter* p : model->parameters()) p->var.value().zero();
  for (const char* name : {"embed.tokens", "norm.weight"}) {
    const Tensor& x = value(*model, name);
    x.copy_from(Tensor::full(x.shape(), DType::f64, 1));
  }
  const NoGrad no_grad;
  for (const bool training : {true, false}) {
    nn::Context context = context_of(kBatch, kLength, training);
    nn::GptOut unused;
    const Var x = model->features(Tensor::zeros({kBatch, kLength}, DType::i32), context, unused);
    for (int64_t n = 0; n < kBatch * kLength; ++n) {
      EXPECT_EQ(x.value().to_vector()[static_cast<size_t>(n * kDim)] != 0, training) << n;
    }
  }
}

TEST(DropoutPlaces, EvaluationDropsNothing) {
  ModelConfig config = small_config();
  config.dim = kDim;
  config.experts = "0 3";
  Tensor logits[2];
  for (const int dropping : {0, 1}) {
    config.dropout = dropping * 0.5;
    const auto model = build_model(config, nn::Build{DType::f64, kCpu}, false);
    model->initialise(3);
    const NoGrad no_grad;
    nn::Context context = context_of(kBatch, kLength, false);
    logits[dropping] =
        model->forward(Tensor::zeros({kBatch, kLength}, DType::i32), context).logits.value();
  }
  EXPECT_TRUE(equal(logits[1], logits[0]));
}

}  // namespace
}  // namespace pyramoe::moe
