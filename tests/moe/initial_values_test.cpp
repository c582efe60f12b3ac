// How parameters start, and which of them decay.
#include <cmath>
#include <set>

#include "tests/moe/support.h"

namespace pyramoe::moe {
namespace {

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}
bool is_norm(const std::string& name) { return name.find("norm") != std::string::npos; }
bool is_matrix(const std::string& name) {
  return name.rfind("embed.", 0) == 0 || (ends_with(name, ".weight") && !is_norm(name));
}
// What ends a branch and is added to the residual stream.
bool is_output(const std::string& name) {
  return ends_with(name, "attention.out.weight") || ends_with(name, ".down.weight");
}

std::unique_ptr<nn::Gpt> pr_moe() {
  ModelConfig config = small_config();
  config.layers = 8;  // 1 / sqrt(2 layers) = 1 / 4
  config.dim = 48;
  config.heads = 2;
  config.vocab = 300;
  config.expert_hidden = 96;
  config.init_std = 0.02;
  config.experts = "0 3 0 3 0 3 0 6";
  config.residual = true;
  config.residual_mix = "learned";
  auto model = build_model(config, nn::Build{DType::f64, kCpu}, false);
  model->initialise(7);
  return model;
}

// Draws from N(0, std^2): mean and spread within five standard errors.
void expect_normal(const std::string& name, const Tensor& x, double std) {
  double sum = 0, squares = 0;
  for (const double v : x.to_vector()) {
    sum += v;
    squares += v * v;
  }
  const auto n = static_cast<double>(x.numel());
  EXPECT_NEAR(sum / n, 0, 5 * std / std::sqrt(n)) << name;
  EXPECT_NEAR(std::sqrt(squares / n) / std, 1, 5 / std::sqrt(2 * n)) << name;
}

// GPT-2: the spread of what is added to the residual stream shrinks with the number of additions.
TEST(InitialValues, HaveTheSpreadOfGpt2) {
  const auto model = pr_moe();
  int outputs = 0;
  for (const nn::Parameter* p : model->parameters()) {
    const Tensor x = p->var.value();
    if (!is_matrix(p->name)) {
      for (const double v : x.to_vector()) {
        ASSERT_EQ(v, is_norm(p->name) && ends_with(p->name, ".weight") ? 1 : 0) << p->name;
      }
      continue;
    }
    const double std = is_output(p->name) ? 0.005 : 0.02;
    outputs += is_output(p->name) ? 1 : 0;
    expect_normal(p->name, x, std);
    if (!p->expert) continue;
    for (int64_t e = 0; e < x.dim(0); ++e) {
      expect_normal(cat(p->name, ", expert ", e), x.rows(e, e + 1), std);
    }
  }
  EXPECT_EQ(outputs, 8 + 8 + 4);  // attention; MLPs, dense or beside experts; experts
}

// No two matrices, and no two experts of one, share a draw.
TEST(InitialValues, AreDrawnForEachParameterAlone) {
  const auto model = pr_moe();
  std::set<double> drawn;
  size_t taken = 0;
  for (const nn::Parameter* p : model->parameters()) {
    if (!is_matrix(p->name)) continue;
    const double std = is_output(p->name) ? 0.005 : 0.02;
    const Tensor x = p->var.value();
    for (int64_t row = 0; row < x.dim(0); ++row) {
      drawn.insert(x.rows(row, row + 1).to_vector()[0] / std);
      ++taken;
    }
  }
  EXPECT_EQ(drawn.size(), taken);
}

TEST(InitialValues, MatricesDecayAndVectorsDoNot) {
  const auto model = pr_moe();
  for (const nn::Parameter* p : model->parameters(true)) {
    EXPECT_EQ(p->weight_decay, is_matrix(p->name)) << p->name;
  }
}

}  // namespace
}  // namespace pyramoe::moe
