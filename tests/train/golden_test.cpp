// Three whole training steps in f64 against PyTorch: loss, logits, every gradient, the global norm
// and every parameter after AdamW, for each family that PyTorch can express. The facts were
// recorded by tests/golden/make_golden.py; tests/golden/README.md describes them.
#include <gtest/gtest.h>

#include <cmath>

#include "core/safetensors.h"
#include "tests/train/support.h"
#include "train/run.h"

namespace pyramoe {
namespace {

constexpr double kTolerance = 1e-11;  // absolute and relative; measured: below 1e-13

void expect_close(const Tensor& got, const Tensor& want, const std::string& what,
                  double tolerance = kTolerance) {
  ASSERT_EQ(got.numel(), want.numel()) << what;
  const std::vector<double> a = got.to_vector(), b = want.to_vector();
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, std::abs(a[i] - b[i]) / (1 + std::abs(b[i])));
    if (std::isnan(a[i])) worst = 1;
  }
  EXPECT_LE(worst, tolerance) << what;
}

std::string teacher_run(const SafetensorsReader& file, const test::ScratchFolder& scratch) {
  nn::CheckpointContent content;
  content.config = file.metadata().at("teacher_config") + "\ntrain.dtype = \"f64\"\n";
  for (const SafetensorsEntry& entry : file.entries()) {
    if (entry.name.rfind("teacher.", 0) == 0) {
      content.model.push_back({entry.name.substr(8), file.tensor(entry)});
    }
  }
  nn::save_checkpoint(scratch.path("teacher"), content);
  return scratch.path("teacher");
}

train::RunConfig golden_config(const SafetensorsReader& file, const test::ScratchFolder& scratch) {
  train::RunConfig config = train::parse_run_config(
      file.metadata().at("config") +
          "\ndata.synthetic = true\ntrain.batch = 3\ntrain.dtype = \"f64\"\ntrain.lr = 0.01\n"
          "train.schedule = \"constant\"\ntrain.min_lr = 0.0\ntrain.steps = 3\n",
      "golden config");
  config.dir = scratch.path("run");
  if (file.metadata().count("teacher_config")) {
    config.distill.teacher = teacher_run(file, scratch);
    config.distill.schedule = "full";
    config.distill.temperature = std::stod(file.metadata().at("kd_temperature"));
    config.distill.beta = std::stod(file.metadata().at("kd_beta"));
  }
  return config;
}

data::Batch golden_batch(const SafetensorsReader& file, int64_t step) {
  const Tensor tokens = file.tensor(cat("tokens.", step));
  const Tensor targets = file.tensor(cat("targets.", step));
  data::Batch batch;
  batch.rows = tokens.dim(0);
  batch.context = tokens.dim(1);
  batch.tokens.assign(tokens.span<int32_t>().begin(), tokens.span<int32_t>().end());
  batch.targets.assign(targets.span<int32_t>().begin(), targets.span<int32_t>().end());
  return batch;
}

class Golden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, ThreeStepsEqualPyTorch) {
  const SafetensorsReader file(std::string(PYRAMOE_SOURCE_DIR) + "/tests/golden/" + GetParam() +
                               ".safetensors");
  const test::ScratchFolder scratch;
  const train::RunConfig config = golden_config(file, scratch);
  train::Trainer trainer(config, kCpu);
  for (const nn::Parameter* p : trainer.model().parameters()) {
    const Tensor value = file.tensor("param." + p->name);
    ASSERT_EQ(value.shape(), p->var.shape()) << p->name;
    p->var.value().copy_from(value);
  }
  {
    const NoGrad no_grad;
    nn::Context context;
    context.training = true;
    const data::Batch batch = golden_batch(file, 0);
    const Tensor tokens = Tensor::from(batch.tokens, {batch.rows, batch.context});
    expect_close(trainer.model().forward(tokens, context).logits.value(), file.tensor("logits"),
                 "logits");
  }
  for (int64_t step = 0; step < 3; ++step) {
    const train::StepResult result = trainer.step_on(golden_batch(file, step));
    const auto want = [&](const std::string& name) {
      return file.tensor(cat(name, ".", step)).item();
    };
    EXPECT_NEAR(result.loss, want("ce"), kTolerance) << "step " << step;
    EXPECT_NEAR(result.balance_loss, want("aux"), kTolerance) << "step " << step;
    EXPECT_NEAR(result.grad_norm, want("grad_norm"), kTolerance * 10) << "step " << step;
    if (file.find(cat("kl.", step))) {
      const double t = config.distill.temperature;
      EXPECT_NEAR(result.distill_loss, t * t * want("kl"), kTolerance) << "step " << step;
    }
    if (step > 0) continue;
    for (const nn::Parameter* p : trainer.model().parameters()) {
      expect_close(p->var.grad(), file.tensor("grad." + p->name), "gradient of " + p->name);
    }
  }
  for (const nn::Parameter* p : trainer.model().parameters()) {
    // Attention does not change when all keys shift, so the key bias has gradient zero: what is
    // there is round-off of 1e-17, which Adam divides by eps = 1e-8 and multiplies by lr = 1e-2.
    const bool has_key_bias = p->name.find("qkv.bias") != std::string::npos;
    expect_close(p->var.value(), file.tensor("final." + p->name), "after 3 steps: " + p->name,
                 has_key_bias ? 10 * kTolerance : kTolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Golden,
                         testing::Values("dense", "moe_top1", "moe_top2", "moe_top1_capacity",
                                         "moe_top2_capacity", "pr_moe_sum", "pr_moe_learned",
                                         "mos"),
                         [](const auto& family) { return std::string(family.param); });

}  // namespace
}  // namespace pyramoe
