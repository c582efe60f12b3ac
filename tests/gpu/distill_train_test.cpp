// Steps of a student with a teacher on the GPU, where both losses and the head are one op: against
// the CPU's losses of logits in f64, equal bits in two runs, and the rule that ends distillation.
#include "tests/gpu/train_support.h"

namespace pyramoe {
namespace {

using gputest::gradients;
using gputest::kGpu;
using gputest::largest;

// A PR-MoE student, wider than its teacher; nothing is drawn.
train::RunConfig student_config(const test::ScratchFolder& scratch, const char* dtype,
                                const std::string& schedule) {
  train::RunConfig config = test::small_config(scratch.path("student"));
  config.model.dim = 32;
  config.model.dropout = 0;
  config.model.noise = "none";
  config.train.dtype = dtype;
  config.distill.teacher = scratch.path("teacher");
  config.distill.schedule = schedule;
  config.distill.temperature = schedule == "full" ? 1 : 2;
  config.distill.beta = 0.7;
  return config;
}

void make_teacher(const test::ScratchFolder& scratch) {
  train::RunConfig config = student_config(scratch, "f32", "full");
  config.dir = config.distill.teacher;
  config.distill = {};
  config.model.dim = 16;
  train::Trainer trainer(config, kCpu);
  while (trainer.steps_done() < 6) trainer.step();
  trainer.save();
}

TEST(DistillOnGpu, AStepIsTheCpusInF64) {
  SKIP_WITHOUT_GPU();
  const test::ScratchFolder scratch;
  make_teacher(scratch);
  for (const char* schedule : {"full", "linear"}) {
    train::Trainer truth(student_config(scratch, "f64", schedule), kCpu);
    train::Trainer gpu(student_config(scratch, "f32", schedule), kGpu);
    for (int i = 0; i < 4; ++i) {  // linear: each with another weight
      const train::StepResult want = truth.step(), got = gpu.step();
      EXPECT_GT(want.distill_loss, 0.01);
      EXPECT_NEAR(got.loss, want.loss, 1e-4 * want.loss) << schedule << i;
      EXPECT_NEAR(got.distill_loss, want.distill_loss, 1e-4 * want.distill_loss) << schedule << i;
      EXPECT_NEAR(got.grad_norm, want.grad_norm, 1e-3 * want.grad_norm) << schedule << i;
      if (i > 0) continue;
      const auto theirs = gradients(gpu);
      for (const auto& [name, gradient] : gradients(truth)) {
        gputest::expect_close(gradient, theirs.at(name), 1e-3, 1e-4 * largest(gradient) + 1e-9,
                              std::string(schedule) + ", gradient of " + name);
      }
    }
  }
}

TEST(DistillOnGpu, Bf16StaysCloseToTheCpu) {
  SKIP_WITHOUT_GPU();
  const test::ScratchFolder scratch;
  make_teacher(scratch);
  train::Trainer cpu(student_config(scratch, "bf16", "full"), kCpu);
  train::Trainer gpu(student_config(scratch, "bf16", "full"), kGpu);
  for (int i = 0; i < 6; ++i) {
    const train::StepResult want = cpu.step(), got = gpu.step();
    EXPECT_NEAR(got.loss, want.loss, 0.02 * want.loss) << i;
    EXPECT_NEAR(got.distill_loss, want.distill_loss, 0.1 * want.distill_loss) << i;
  }
}

// Also past the teacher's end, where the step goes the plain way.
TEST(DistillOnGpu, TwoRunsAndTheirGraphsGiveTheSameBits) {
  SKIP_WITHOUT_GPU();
  const test::ScratchFolder scratch;
  make_teacher(scratch);
  for (const char* dtype : {"f32", "bf16"}) {
    train::RunConfig config = student_config(scratch, dtype, "linear");
    config.distill.stop_at = 0.5;
    train::Trainer graphs(config, kGpu);
    config.train.graph = false;
    train::Trainer eager(config, kGpu);
    for (int i = 0; i < 10; ++i) {
      const train::StepResult a = graphs.step(), b = eager.step();
      ASSERT_EQ(a.loss, b.loss) << dtype << ", step " << i;
      ASSERT_EQ(a.distill_loss, b.distill_loss) << dtype << ", step " << i;
      ASSERT_EQ(a.grad_norm, b.grad_norm) << dtype << ", step " << i;
      EXPECT_EQ(a.distill_weight > 0, i < 6);
    }
    for (size_t i = 0; i < graphs.buffers().groups().size(); ++i) {
      gputest::expect_same_bits(graphs.buffers().groups()[i].param,
                                eager.buffers().groups()[i].param, dtype);
    }
  }
}

TEST(DistillOnGpu, TheCosineOfTheTwoGradientsIsTheCpus) {
  SKIP_WITHOUT_GPU();
  const test::ScratchFolder scratch;
  make_teacher(scratch);
  const auto cosine = [&](const char* dtype, Device device) {
    train::RunConfig config = student_config(scratch, dtype, "auto");
    config.distill.check_every = 2;
    config.distill.check_batches = 2;
    train::Trainer trainer(config, device);
    double found = 0;
    while (trainer.steps_done() < 3) found = trainer.step().distill_cosine;
    return found;
  };
  const double want = cosine("f64", kCpu);
  EXPECT_TRUE(std::isfinite(want));
  EXPECT_NEAR(cosine("f32", kGpu), want, 1e-3);
}

}  // namespace
}  // namespace pyramoe
