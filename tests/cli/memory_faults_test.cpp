// Too little memory, at any moment: exit code 7 with bytes in the message, checkpoints intact; an
// allocation that fails anywhere in a step is an error like any other, and the step after it is as
// if nothing had been.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "nn/checkpoint.h"
#include "tests/cli/support.h"
#include "train/trainer.h"

namespace {

// Every `new` of this test program is counted, and one of them can be made to fail.
std::atomic<int64_t> news{0};
std::atomic<int64_t> failing_new{0};

void* counted(std::size_t bytes) {
  void* memory = ++news == failing_new ? nullptr : std::malloc(bytes > 0 ? bytes : 1);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes); }
void* operator new[](std::size_t bytes) { return counted(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace pyramoe {
namespace {

using test::Outcome;
using test::Scratch;

// The state after one more step, as bytes.
std::string state_bytes(train::Trainer& trainer) {
  std::string all;
  const auto add = [&](const Tensor& x) {
    all.append(static_cast<const char*>(x.raw()), static_cast<size_t>(x.bytes()));
  };
  for (const nn::Parameter* p : trainer.model().parameters(true)) add(p->var.value());
  for (const nn::NamedTensor& t : trainer.optimizer().state()) add(t.value);
  return all;
}

train::RunConfig step_config(const Scratch& scratch) {
  return train::load_run_config(test::tiny_config(scratch), {"run.dir=" + (scratch / "run")});
}

// One step in which `arm(n)` makes the n-th allocation fail, for every n until a step passes. Then
// the step is taken again, by the same trainer or, where the failure may have come in the middle of
// the update, by a new one: it must arrive at the bits of an untroubled one.
template <class Arm>
int64_t fail_every_allocation(const train::RunConfig& config, int64_t stride, bool same_trainer,
                              const Arm& arm) {
  train::Trainer untroubled(config, kCpu);
  untroubled.step();
  const std::string expected = state_bytes(untroubled);
  for (int64_t n = 1;; n += stride) {
    train::Trainer trainer(config, kCpu);
    bool failed = false;
    arm(n);
    try {
      trainer.step();
    } catch (const Error& error) {
      failed = error.code() == Exit::memory;
      if (!failed) ADD_FAILURE() << n << ": " << error.what();
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    arm(0);
    train::Trainer fresh(config, kCpu);
    train::Trainer& second = same_trainer ? trainer : fresh;
    if (second.steps_done() == 0) second.step();
    if (state_bytes(second) != expected) {
      ADD_FAILURE() << "allocation " << n << " left other bits behind";
    }
    if (!failed) return n;
  }
}

TEST(MemoryFaults, AnyTensorThatCannotBeAllocatedIsACleanError) {
  const Scratch scratch;
  const int64_t before = device_bytes(kCpu);
  const int64_t last = fail_every_allocation(step_config(scratch), 1, true,
                                             [](int64_t n) { fail_nth_device_alloc(n); });
  EXPECT_GT(last, 100);
  EXPECT_EQ(device_bytes(kCpu), before) << "memory was lost on the way";
}

TEST(MemoryFaults, AnyOtherAllocationToo) {
  const Scratch scratch;
  const int64_t last = fail_every_allocation(step_config(scratch), test::campaign() ? 1 : 9, false,
                                             [](int64_t n) { failing_new = n > 0 ? news + n : 0; });
  EXPECT_GT(last, 1000);
}

TEST(MemoryFaults, LimitedMemoryEndsWithSevenAndTheCheckpointsStay) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the address sanitizer reserves more address space than any limit leaves";
#endif
  const Scratch scratch;
  const std::string config = test::tiny_config(scratch), dir = scratch / "run";
  ASSERT_EQ(test::run_program(test::train_command(config, dir, {"train.steps=4"})).code, 0);
  const std::vector<std::string> before = test::files_below(dir + "/checkpoints");
  int64_t refused = 0, done = 0;
  for (int64_t limit = 20'000'000; limit < 400'000'000; limit += 4'000'000) {
    const Outcome outcome =
        test::run_program(test::train_command(config, dir, {"train.steps=4"}),
                          {.environment = {{"PYRAMOE_THREADS", "2"}}, .address_space = limit});
    if (outcome.code == 127) continue;  // not even the loader fits
    EXPECT_FALSE(outcome.says("skipped a checkpoint")) << limit << outcome.text;
    EXPECT_EQ(test::files_below(dir + "/checkpoints"), before);
    if (outcome.code == 0) {
      ++done;
      break;
    }
    EXPECT_EQ(outcome.code, 7) << limit << " signal " << outcome.signal << "\n" << outcome.text;
    EXPECT_TRUE(outcome.says("memory")) << outcome.text;
    ++refused;
  }
  EXPECT_GT(refused, 0);
  EXPECT_EQ(done, 1);
  EXPECT_EQ(nn::Checkpoint::newest(dir).step(), 4);
}

TEST(MemoryFaults, AModelThatDoesNotFitSaysHowMuchItWanted) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the address sanitizer reserves more address space than any limit leaves";
#endif
  const Scratch scratch;
  const Outcome outcome =
      test::run_program(test::train_command(test::tiny_config(scratch), scratch / "run",
                                            {"model.dim=2048", "model.layers=8", "moe.experts=32"}),
                        {.address_space = 1'000'000'000});
  EXPECT_EQ(outcome.code, 7) << outcome.text;
  EXPECT_TRUE(outcome.says(" bytes asked for")) << outcome.text;
  EXPECT_TRUE(outcome.says("lower train.micro_batch")) << outcome.text;
}

}  // namespace
}  // namespace pyramoe
