// What a block leaves in memory from its forward pass to its backward pass, byte for byte: the
// table in docs/gpu.md.
#include <gtest/gtest.h>

#include "moe/build_model.h"
#include "tests/train/support.h"

namespace pyramoe {
namespace {

constexpr int64_t kBatch = 2, kLength = 16, kTokens = kBatch * kLength;

// Bytes that the graph of a forward pass holds.
int64_t held_by(const std::string& experts, int64_t layers, bool residual) {
  moe::ModelConfig config = test::small_config("").model;
  config.layers = layers;
  config.dim = 32;
  config.experts = experts;
  config.residual = residual;
  config.noise = "none";
  config.capacity_factor = 0;
  config.dropout = 0;
  const auto model = moe::build_model(config, {DType::f32, kCpu}, false);
  model->initialise(1);
  const Tensor tokens = Tensor::zeros({kBatch, kLength}, DType::i32);
  nn::Context context;
  context.training = true;
  const int64_t before = device_bytes(kCpu);
  nn::GptOut out;
  const Var features = model->features(tokens, context, out);
  context = nn::Context();
  return device_bytes(kCpu) - before;
}

// In f32: rows of 32 features, and numbers a token.
int64_t rows(int64_t count) { return count * kTokens * 32 * 4; }
int64_t numbers(int64_t count) { return count * kTokens * 4; }

// On a CPU; on a GPU twelve, without GELU's output.
TEST(KeptBytes, ADenseBlockKeepsSixteenRowsAToken) {
  // The block's input and its sum with attention, the norm of each, q, k, v, attention's output,
  // the hidden layer before GELU and after; two numbers of each norm, one a head of attention.
  EXPECT_EQ(held_by("0", 2, false) - held_by("0", 1, false), rows(2 + 2 + 3 + 1 + 8) + numbers(6));
}

TEST(KeptBytes, ABlockOfExpertsKeepsThoseOfItsRowsToo) {
  // The rows of experts, their hidden layer before GELU and their output, where a dense block has
  // its hidden layer before GELU and after.
  const int64_t dense = held_by("0", 1, false), moe = held_by("4", 1, false);
  EXPECT_GE(moe - dense, rows(1 + 1 - 4));
  EXPECT_LE(moe - dense, rows(1 + 1 - 4) + numbers(4 + 16));
  // Beside them the residual MLP's hidden layer, before GELU and after.
  const int64_t residual = held_by("4", 1, true);
  EXPECT_GE(residual - moe, rows(4 + 4));
  EXPECT_LE(residual - moe, rows(4 + 4) + numbers(8));
}

}  // namespace
}  // namespace pyramoe
