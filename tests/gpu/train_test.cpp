// Whole steps on the GPU: each family against the CPU in f64, equal bits in two runs, graphs that
// change nothing, and checkpoints that move between devices.
#include "core/cuda_device.h"
#include "tests/gpu/train_support.h"

namespace pyramoe {
namespace {

using gputest::gradients;
using gputest::kGpu;
using gputest::largest;

struct Family {
  const char* name;
  std::function<void(train::RunConfig&)> set;
};

const std::vector<Family>& families() {
  static const std::vector<Family> all = {
      {"dense", [](train::RunConfig& c) { c.model.experts = "0"; }},
      {"top-1 with capacity", [](train::RunConfig& c) { c.model.residual = false; }},
      {"top-2 dropless",
       [](train::RunConfig& c) {
         c.model.residual = false;
         c.model.top_k = 2;
         c.model.capacity_factor = 0;
         c.model.renormalize = true;
         c.model.z_coef = 1e-3;
       }},
      {"PR-MoE, learned mix", [](train::RunConfig& c) { c.model.residual_mix = "learned"; }},
      {"PR-MoE with noise",
       [](train::RunConfig& c) {
         c.model.noise = "jitter";
         c.model.dropout = 0.1;
         c.model.drop_by = "random";
       }},
      {"balancing bias, recomputed",
       [](train::RunConfig& c) {
         c.model.gate = "sigmoid_bias";
         c.train.recompute = true;
       }},
      {"dense one-hot dispatch", [](train::RunConfig& c) { c.model.dispatch = "einsum"; }},
  };
  return all;
}

// Four sequences a step, in two micro-batches or, with gradients that come and go, in one.
train::RunConfig config_of(const Family& family, const char* dtype, const std::string& dir,
                           int64_t micro_batch = 2) {
  train::RunConfig config = test::small_config(dir);
  config.train.micro_batch = micro_batch;
  config.model.dim = 32;
  config.model.noise = "none";
  config.model.dropout = 0;
  config.train.dtype = dtype;
  family.set(config);
  return config;
}

TEST(TrainOnGpu, AStepOfEachFamilyIsTheCpusInF64) {
  SKIP_WITHOUT_GPU();
  for (const Family& family : families()) {
    for (const int64_t micro : {2, 4}) {
      const test::ScratchFolder scratch;
      const std::string what = cat(family.name, ", micro-batches of ", micro);
      train::Trainer truth(config_of(family, "f64", scratch.path("cpu"), micro), kCpu);
      train::Trainer gpu(config_of(family, "f32", scratch.path("gpu"), micro), kGpu);
      EXPECT_EQ(gpu.buffers().brief_bytes() > 0, micro == 4);
      const train::StepResult want = truth.step(), got = gpu.step();
      EXPECT_NEAR(got.loss, want.loss, 1e-5 * want.loss) << what;
      EXPECT_NEAR(got.balance_loss, want.balance_loss, 1e-5) << what;
      EXPECT_NEAR(got.grad_norm, want.grad_norm, 1e-4 * want.grad_norm) << what;
      EXPECT_EQ(got.load, want.load) << what;
      EXPECT_EQ(got.dropped, want.dropped) << what;
      const auto theirs = gradients(gpu);
      for (const auto& [name, gradient] : gradients(truth)) {
        gputest::expect_close(gradient, theirs.at(name), 1e-3, 1e-4 * largest(gradient) + 1e-9,
                              what + ", gradient of " + name);
      }
    }
  }
}

TEST(TrainOnGpu, Bf16StaysCloseToTheCpu) {
  SKIP_WITHOUT_GPU();
  for (const Family& family : families()) {
    const test::ScratchFolder scratch;
    train::Trainer cpu(config_of(family, "bf16", scratch.path("cpu")), kCpu);
    train::Trainer gpu(config_of(family, "bf16", scratch.path("gpu")), kGpu);
    for (int i = 0; i < 6; ++i) {
      const double want = cpu.step().loss, got = gpu.step().loss;
      EXPECT_NEAR(got, want, 0.02 * want) << family.name << ", step " << i;
    }
  }
}

// Also that graphs give the bits of the eager run: one of the two runs has none.
TEST(TrainOnGpu, TwoRunsAndTheirGraphsGiveTheSameBits) {
  SKIP_WITHOUT_GPU();
  for (const Family& family : families()) {
    for (const auto& [dtype, micro] : std::vector<std::pair<const char*, int64_t>>{
             {"f32", 2}, {"bf16", 2}, {"f32", 4}, {"bf16", 4}}) {
      const test::ScratchFolder scratch;
      train::RunConfig config = config_of(family, dtype, scratch.path("run"), micro);
      train::Trainer graphs(config, kGpu);
      config.train.graph = false;
      train::Trainer eager(config, kGpu);
      for (int i = 0; i < 5; ++i) {
        const train::StepResult a = graphs.step(), b = eager.step();
        ASSERT_EQ(a.loss, b.loss) << family.name << " " << dtype << ", step " << i;
        ASSERT_EQ(a.grad_norm, b.grad_norm) << family.name << " " << dtype << ", step " << i;
      }
      for (size_t i = 0; i < graphs.buffers().groups().size(); ++i) {
        gputest::expect_same_bits(graphs.buffers().groups()[i].param,
                                  eager.buffers().groups()[i].param,
                                  std::string(family.name) + " " + dtype);
      }
    }
  }
}

data::Batch counting_batch(const train::RunConfig& config) {
  data::Batch batch;
  batch.rows = config.train.batch;
  batch.context = config.model.context;
  for (int64_t i = 0; i < batch.rows * batch.context; ++i) {
    batch.tokens.push_back(static_cast<int32_t>(i * 7 % config.model.vocab));
    batch.targets.push_back(static_cast<int32_t>((i + 1) * 7 % config.model.vocab));
  }
  return batch;
}

// Dropout, gate noise and random token selection are replayed too, each step and micro-batch with
// numbers of its own, and drawn again where blocks are recomputed.
TEST(TrainOnGpu, StepsThatDrawNumbersAreReplayedBitForBit) {
  SKIP_WITHOUT_GPU();
  for (const char* noise : {"jitter", "rsample"}) {
    for (const char* dtype : {"f32", "bf16"}) {
      const test::ScratchFolder scratch;
      train::RunConfig config = config_of(families()[1], dtype, scratch.path("run"));
      config.model.noise = noise;
      config.model.dropout = 0.2;
      config.model.drop_by = "random";
      config.train.recompute = true;
      if (config.train.dtype == "bf16") config.train.states = "bf16";
      ASSERT_EQ(config.train.batch, 2 * config.train.micro_batch);
      train::Trainer graphs(config, kGpu);
      config.train.graph = false;
      train::Trainer eager(config, kGpu);
      const data::Batch batch = counting_batch(config);
      const std::string what = std::string(noise) + " " + dtype;
      for (int i = 0; i < 6; ++i) {
        const train::StepResult a = graphs.step_on(batch), b = eager.step_on(batch);
        ASSERT_EQ(a.loss, b.loss) << what << ", step " << i;
        ASSERT_EQ(a.grad_norm, b.grad_norm) << what << ", step " << i;
      }
      EXPECT_TRUE(graphs.replays_steps()) << what;
      EXPECT_FALSE(eager.replays_steps()) << what;
      for (size_t i = 0; i < graphs.buffers().groups().size(); ++i) {
        gputest::expect_same_bits(graphs.buffers().groups()[i].param,
                                  eager.buffers().groups()[i].param, what);
      }
    }
  }
}

// With a learning rate of zero nothing but the drawn numbers changes from step to step.
TEST(TrainOnGpu, ReplayedStepsDrawAnew) {
  SKIP_WITHOUT_GPU();
  const test::ScratchFolder scratch;
  train::RunConfig config = config_of(families()[0], "f32", scratch.path("run"));
  config.model.dropout = 0.2;
  config.train.lr = config.train.min_lr = 0;
  train::Trainer trainer(config, kGpu);
  const data::Batch batch = counting_batch(config);
  std::vector<double> seen;
  for (int i = 0; i < 6; ++i) {
    const double loss = trainer.step_on(batch).loss;
    for (const double before : seen) EXPECT_NE(loss, before) << "step " << i;
    seen.push_back(loss);
  }
  EXPECT_TRUE(trainer.replays_steps());
}

// By the allocator's count, and by what the driver has handed out: graphs are in it.
void steps_stay_under_their_limit(int64_t micro_batch) {
  const test::ScratchFolder scratch;
  train::RunConfig config = config_of(families()[1], "bf16", scratch.path("run"));
  config.model.layers = 8;
  config.model.experts = "(0 4)*4";
  config.model.dim = 256;
  config.model.heads = 4;
  config.model.context = 256;
  config.model.dropout = 0.1;
  config.train.batch = 32;
  config.train.micro_batch = micro_batch;
  struct Taken {
    int64_t recomputed = 0, peak = 0, driver = 0;
    double loss = 0;
  };
  constexpr int64_t kPieces = 64 << 20;  // the driver hands out 32 MB at a time, to pool and graphs
  const auto used = [] {
    cuda_device::trim(0);
    return cuda_device::total_bytes(0) - cuda_device::free_bytes(0);
  };
  const auto take_steps = [&] {
    Taken taken;
    const int64_t held = device_bytes(kGpu), before = used();
    train::Trainer trainer(config, kGpu);
    trainer.plan_memory();
    reset_device_peak_bytes(kGpu);
    for (int i = 0; i < 5; ++i) taken.loss = trainer.step().loss;
    EXPECT_TRUE(trainer.replays_steps());
    taken.peak = device_peak_bytes(kGpu) - held;
    taken.driver = used() - before;
    for (const bool again : trainer.model().recomputed()) taken.recomputed += again;
    return taken;
  };
  take_steps();  // the kernels' code is loaded
  const Taken none = take_steps();
  config.train.recompute = true;
  const Taken all = take_steps();
  config.train.recompute = false;
  ASSERT_LT(all.peak, none.peak * 3 / 4);
  for (const int percent : {10, 40, 70, 105}) {
    const int64_t limit = (all.peak + (none.peak - all.peak) * percent / 100) * 50 / 49;
    config.train.memory_limit = std::to_string(limit);
    const Taken taken = take_steps();
    EXPECT_EQ(taken.loss, none.loss) << percent;
    EXPECT_LE(taken.peak, limit) << percent;
    EXPECT_LE(taken.driver, limit + kPieces) << percent;
    EXPECT_EQ(taken.recomputed == 0, percent > 100) << percent;
  }
}

TEST(TrainOnGpu, AStepStaysUnderItsMemoryLimit) {
  SKIP_WITHOUT_GPU();
  steps_stay_under_their_limit(16);
}
TEST(TrainOnGpu, AStepOfOneMicroBatchStaysUnderItsMemoryLimit) {
  SKIP_WITHOUT_GPU();
  steps_stay_under_their_limit(32);
}

TEST(TrainOnGpu, ARunMovesBetweenDevices) {
  SKIP_WITHOUT_GPU();
  for (const Device second : {kCpu, kGpu}) {
    const test::ScratchFolder scratch;
    const Device first = second == kCpu ? kGpu : kCpu;
    const train::RunConfig config = config_of(families()[3], "f32", scratch.path("run"));
    train::Trainer before(config, first), whole(config, kCpu);
    for (int i = 0; i < 4; ++i) before.step(), whole.step();
    before.save();
    train::Trainer after(config, second);
    after.resume(nn::Checkpoint::newest(config.dir));
    EXPECT_EQ(after.steps_done(), 4);
    for (int i = 0; i < 4; ++i) {
      const double want = whole.step().loss;
      EXPECT_NEAR(after.step().loss, want, 1e-3 * want) << to_string(second) << ", step " << i;
    }
  }
}

TEST(TrainOnGpu, ANonFiniteGradientChangesNothing) {
  SKIP_WITHOUT_GPU();
  const test::ScratchFolder scratch;
  train::RunConfig config = config_of(families()[0], "f32", scratch.path("run"));
  train::Trainer trainer(config, kGpu);
  for (int i = 0; i < 3; ++i) trainer.step();
  const Tensor param = trainer.buffers().groups()[0].param;
  const Tensor kept = param.clone();
  Tensor one = param.rows(0, 1);
  one.copy_from(Tensor::full({1}, DType::f32, NAN));
  const Tensor broken = param.clone();
  const train::StepResult result = trainer.step();
  EXPECT_TRUE(result.skipped);
  gputest::expect_same_bits(broken, param, "a skipped step");
  param.copy_from(kept);
  EXPECT_FALSE(trainer.step().skipped);
}

}  // namespace
}  // namespace pyramoe
