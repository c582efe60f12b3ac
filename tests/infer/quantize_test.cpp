// Expert weights in few bits: a row by hand, the bound of every error, what is left alone, and the
// bytes that are reported.
#include "infer/quantize.h"

#include <cmath>
#include <limits>

#include "tests/infer/support.h"

namespace pyramoe::infer {
namespace {

std::vector<double> rounded(const std::vector<float>& row, int64_t bits) {
  const Tensor x = Tensor::from(row, {1, static_cast<int64_t>(row.size())});
  const Tensor y = empty_like(x);
  unpack_rows(pack_rows(x, bits), y);
  return y.to_vector();
}

TEST(Quantize, ARowByHand) {
  // The scale is 7 / 7 = 1, so that 4 bits know the whole numbers from -7 to 7.
  EXPECT_EQ(rounded({7, -7, 0, 1.4f, -1.6f}, 4), (std::vector<double>{7, -7, 0, 1, -2}));
  EXPECT_EQ(rounded({127, -127, 0, 1.4f, -1.6f}, 8), (std::vector<double>{127, -127, 0, 1, -2}));
  EXPECT_EQ(rounded({0, 0, 0}, 8), (std::vector<double>{0, 0, 0}));
}

TEST(Quantize, ThirtyTwoNeighboursShareAScaleAndNoMore) {
  std::vector<float> row(40, 7 * 0.0625f);
  row[0] = 700;  // takes all precision from the first 32
  const std::vector<double> y = rounded(row, 4);
  EXPECT_EQ(y[31], 0);
  EXPECT_EQ(y[32], 7 * 0.0625);
}

TEST(Quantize, NoErrorIsMoreThanHalfAScaleAndItsRounding) {
  std::vector<float> row;
  for (int i = 0; i < 333; ++i) row.push_back(std::sin(static_cast<float>(i * i)));
  for (const int64_t bits : {int64_t{8}, int64_t{4}}) {
    const double most = bits == 8 ? 127 : 7;
    const std::vector<double> y = rounded(row, bits);
    for (size_t g = 0; g < row.size(); g += 32) {
      const size_t end = std::min(row.size(), g + 32);
      double largest = 0;
      for (size_t i = g; i < end; ++i) largest = std::max(largest, std::abs(double{row[i]}));
      // bf16 keeps a scale to 1 in 256; a scale rounded down cuts the largest value by as much.
      const double bound = largest * (0.5 / most * (1 + 1.0 / 256) + 1.0 / 256);
      for (size_t i = g; i < end; ++i) EXPECT_LE(std::abs(y[i] - double{row[i]}), bound);
    }
    const std::vector<float> once(y.begin(), y.end());
    EXPECT_EQ(rounded(once, bits), y);  // what has a code keeps it
  }
}

TEST(Quantize, WeightsThatAreNoNumbersAreRefused) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_THROW(rounded({1, nan}, 8), Error);
  EXPECT_THROW(rounded({1, inf}, 4), Error);
}

LoadedRun run_of(const Family& family, DType dtype = DType::f32) {
  LoadedRun run;
  run.config = tiny_config(family);
  run.model = tiny_model(family, dtype);
  run.dtype = dtype;
  return run;
}

TEST(QuantizeExperts, RoundsExpertWeightsAndNothingElse) {
  const LoadedRun before = run_of(families()[3]);
  LoadedRun after = run_of(families()[3]);
  quantize_experts(after, 4);
  const std::vector<nn::Parameter*> a = before.model->parameters(true);
  const std::vector<nn::Parameter*> b = after.model->parameters(true);
  int64_t changed = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const bool same = a[i]->var.value().to_vector() == b[i]->var.value().to_vector();
    const bool expert = a[i]->name.find("experts") != std::string::npos &&
                        a[i]->name.find("weight") != std::string::npos;
    EXPECT_EQ(same, !expert) << a[i]->name;
    changed += same ? 0 : 1;
  }
  EXPECT_EQ(changed, 4);  // up and down of two layers
}

TEST(QuantizeExperts, BytesAreCountedByHand) {
  // D = 12, F = 48, layers of 4 and 4 experts: 8 times up (48 rows of 12), down (12 rows of 48) and
  // biases of 48 + 12 in f32.
  const int64_t weights = 8 * 2 * 48 * 12, biases = 8 * (48 + 12) * 4;
  const int64_t scales = 8 * (48 * 1 + 12 * 2) * 2;
  LoadedRun run = run_of(families()[1]);
  const StorageBytes plain = quantize_experts(run, 0);
  EXPECT_EQ(plain.expert_bits, 32);
  EXPECT_EQ(plain.expert_bytes, weights * 4 + biases);
  const StorageBytes eight = quantize_experts(run, 8);
  EXPECT_EQ(eight.expert_bytes, weights + scales + biases);
  EXPECT_EQ(plain.total_bytes - plain.expert_bytes, eight.total_bytes - eight.expert_bytes);
  const StorageBytes four = quantize_experts(run, 4);
  EXPECT_EQ(four.expert_bits, 4);
  EXPECT_EQ(four.expert_bytes, weights / 2 + scales + biases);
  LoadedRun narrow = run_of(families()[1], DType::bf16);
  EXPECT_EQ(quantize_experts(narrow, 0).expert_bits, 16);
}

TEST(QuantizeExperts, OtherBitsAndDenseModelsAreRefused) {
  LoadedRun dense = run_of(families()[0]), moe = run_of(families()[1]);
  EXPECT_THROW(quantize_experts(dense, 8), Error);
  EXPECT_THROW(quantize_experts(moe, 5), Error);
  EXPECT_NO_THROW(quantize_experts(dense, 0));
}

}  // namespace
}  // namespace pyramoe::infer
