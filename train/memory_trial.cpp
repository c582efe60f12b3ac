// train.memory_limit before the first step: tries micro-steps, chooses the blocks to recompute
// (train/memory_plan.h) and tries that choice too. Gradients of the trial are overwritten by the
// step; weights, moments and counters stay untouched.
#include <fmt/format.h>

#include <algorithm>

#include "core/cuda_device.h"
#include "train/memory_plan.h"
#include "train/trainer.h"

namespace pyramoe::train {
namespace {

std::string gigabytes(int64_t bytes) {
  return fmt::format("{:.{}f} GB", static_cast<double>(bytes) * 1e-9, bytes < 1000000000 ? 3 : 1);
}

// The largest of each number over all ranks: they must choose alike.
StepMemory joined(const nn::MemoryProbe& probe, const dist::ProcessGroup& world) {
  std::vector<double> numbers{static_cast<double>(probe.peak_of_loss())};
  for (const nn::MemoryProbe::Block& block : probe.blocks()) {
    for (const int64_t x : {block.recomputed, block.kept, block.peak}) {
      numbers.push_back(static_cast<double>(x));
    }
  }
  Tensor all = Tensor::from(numbers, {static_cast<int64_t>(numbers.size())});
  world.all_reduce(all, dist::Reduce::max);
  const double* at = all.data<double>();
  const auto next = [&at] { return static_cast<int64_t>(*at++); };
  StepMemory memory;
  memory.peak_of_loss = next();
  for (size_t i = 0; i < probe.blocks().size(); ++i) {
    nn::MemoryProbe::Block block;
    block.recomputed = next(), block.kept = next(), block.peak = next();
    memory.blocks.push_back(block);
  }
  return memory;
}

int64_t largest(int64_t bytes, const dist::ProcessGroup& world) {
  Tensor all = Tensor::from(std::vector<double>{static_cast<double>(bytes)}, {1});
  world.all_reduce(all, dist::Reduce::max);
  return static_cast<int64_t>(all.item());
}

}  // namespace

// The first micro-step overwrites gradients, those behind it add: two are tried where there are.
int64_t Trainer::try_micro_steps(const data::Batch& batch, bool with_teacher,
                                 nn::MemoryProbe* probe) {
  const int64_t rows = config_.micro_batch(), ranks = mesh_ ? mesh_->data().size() : 1;
  const int64_t passes = std::min<int64_t>(2, config_.train.batch / (rows * ranks));
  model_->probe(probe);
  buffers_->drop_grads();
  reset_device_peak_bytes(device_);
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t row = (mesh_ ? mesh_->data().rank() : 0) * rows;
    load_micro_batch(batch, row);
    micro_step(row, pass == 0, false, with_teacher);
    if (probe) probe->end_pass();
  }
  model_->probe(nullptr);
  return largest(device_peak_bytes(device_), world());
}

std::string Trainer::plan_memory() {
  const int64_t limit = bytes_of(config_.train.memory_limit);
  if (memory_planned_ || limit == 0) return "";
  const StepPlan plan = schedule_.plan(step_);
  return plan_memory(data_.batches->samples(plan.first_sequence, plan.batch));
}

std::string Trainer::plan_memory(const data::Batch& batch) {
  const int64_t limit = bytes_of(config_.train.memory_limit);
  if (memory_planned_ || limit == 0) return "";
  struct Trying {
    explicit Trying(Trainer& trainer) : at(trainer) { at.trying_ = true; }
    ~Trying() {
      at.trying_ = false;
      at.model_->probe(nullptr);
    }
    Trainer& at;
  } const trying(*this);
  phase("memory plan");
  StepResult result;
  result.distill_weight = distill_weight(schedule_.plan(step_));
  const bool with_teacher = result.distill_weight > 0;
  start_step(batch, result);
  const int64_t layers = model_->options().layers, now = device_bytes(device_);
  const int64_t held = now + buffers_->brief_bytes();
  int64_t room = limit;
  if (config_.distill.schedule == "auto" && auto_stop_.stopped() < 0) {  // a check's copy
    for (const FlatGroup& group : buffers_->groups()) room -= group.grad.bytes();
  }
  const int64_t budget = room - limit / kShareLeftFree;
  const auto refuse = [&](int64_t peak) {
    fail(Exit::memory, "train.memory_limit = ", config_.train.memory_limit,
         ": a step needs at least ", gigabytes(peak + limit - budget), " even with all ", layers,
         " layers recomputed, ", gigabytes(held),
         " of them for weights, gradients and moments; lower train.micro_batch ",
         "(gradients accumulate over train.batch), use train.dtype = \"bf16\" or train.states = ",
         "\"bf16\", or raise the limit");
  };
  if (largest(held, world()) > budget) refuse(held);
  model_->recompute(std::vector<bool>(static_cast<size_t>(layers), true));
  nn::MemoryProbe probe(device_, layers);
  try_micro_steps(batch, with_teacher, &probe);
  const StepMemory memory = joined(probe, world());
  const auto all = static_cast<size_t>(layers);
  // A trial decides; the first has few blocks recomputed, but not so few that memory runs out.
  const int64_t most = device_ == kCpu ? INT64_MAX : now + cuda_device::free_bytes(device_.index);
  size_t count = config_.train.recompute ? all : fewest_recomputed(memory, room, most);
  int64_t peak = 0;
  for (;; ++count) {
    model_->recompute(recompute_first(memory, count));
    peak = try_micro_steps(batch, with_teacher, nullptr);
    if (peak <= budget) break;
    if (count == all) refuse(peak);
  }
  reset_device_peak_bytes(device_);
  memory_planned_ = true;
  return fmt::format("memory: {} of {} layers recomputed, {} of {}", count, layers, gigabytes(peak),
                     gigabytes(limit));
}

}  // namespace pyramoe::train
