// train.states = "bf16" on many ranks: weights and moments are rounded at random by the place of an
// element in the whole model, so equal gradients give equal bits on every layout.
#include "moe/build_model.h"
#include "nn/gather.h"
#include "tests/dist/families.h"
#include "tests/dist/world.h"

namespace pyramoe {
namespace {

using test::world;

// Gradients that depend on a parameter's name and an element's place in it alone.
void fill_gradients(const train::FlatBuffers& buffers) {
  for (const train::FlatGroup& group : buffers.groups()) {
    for (const train::FlatSlot& slot : group.slots) {
      const nn::Parameter& p = *slot.parameter;
      const RngKey key{1, RngPurpose::test, static_cast<uint32_t>(std::hash<std::string>{}(p.name)),
                       0};
      Tensor grad(p.var.shape(), DType::f64);
      nn::for_each_run(p.place.box, p.var.shape(), [&](int64_t to, int64_t from, int64_t n) {
        for (int64_t i = 0; i < n; ++i) {
          grad.data<double>()[to + i] = random_normal(key, static_cast<uint64_t>(from + i));
        }
      });
      group.view(group.grad, slot).copy_from(grad.to(group.grad.dtype()));
    }
  }
}

// Weights and moments after three updates, by global name; on rank 0.
test::Bits updated(train::RunConfig config, const dist::ProcessGroup& ranks) {
  config.train.dtype = config.train.states = "bf16";
  config.train.micro_batch = 1;
  const dist::Mesh mesh = train::make_mesh(ranks, config);
  const dist::Mesh* several = mesh.many() ? &mesh : nullptr;
  const auto model = moe::build_model(config.model, {DType::bf16, kCpu, true, several}, false);
  model->initialise(1);
  train::FlatBuffers buffers(*model, true, several);
  const auto optimizer = train::make_optimizer(buffers, config.train, config.parallel.zero);
  for (int step = 0; step < 3; ++step) {
    fill_gradients(buffers);
    train::StepScalars scalars(kCpu);
    scalars.set(train::StepScalars::lr, 1e-4);  // far below half an ulp of most weights
    scalars.set(train::StepScalars::clip, 1);
    scalars.set(train::StepScalars::step, step);
    optimizer->prepare(scalars);
    optimizer->step(scalars.values());
    optimizer->count_update();
  }
  test::Bits bits;
  for (const auto& parts : {nn::parts_of(*model), optimizer->state()}) {
    for (const nn::NamedTensor& t : nn::gather_whole(parts, ranks)) {
      bits[t.name] = test::bits_of(t.value);
    }
  }
  return bits;
}

TEST(NarrowStates, EveryLayoutRoundsAlike) {
  const train::RunConfig config = test::family_config("pr_moe", "");
  const test::Bits want = updated(config, dist::ProcessGroup());
  for (const int64_t tensor : {1, 2, 4}) {
    for (const int64_t zero : {0, 1, 2}) {
      if (world().size() % tensor != 0) continue;
      train::RunConfig many = config;
      many.parallel.tensor = tensor;
      many.parallel.zero = zero;
      const test::Bits got = updated(many, world());
      if (world().rank() > 0) continue;
      SCOPED_TRACE(cat(world().size(), " ranks, tensor ", tensor, ", zero ", zero));
      test::expect_equal_bits(want, got);
    }
  }
}

TEST(NarrowStates, TrainingFollowsOneRank) {
  train::RunConfig config = test::family_config("top2", "");
  config.train.dtype = config.train.states = "bf16";
  config.train.micro_batch = 2;
  test::Trace want;
  if (world().rank() == 0) want = test::trace_of(config, dist::ProcessGroup(), 10);
  const test::Trace got = test::trace_of(config, world(), 10);
  if (world().rank() > 0) return;
  // bf16 gradients of micro-batches are rounded to 8 bits in another order.
  EXPECT_NEAR(got.last.at("loss").item(), want.last.at("loss").item(), 0.05);
}

}  // namespace
}  // namespace pyramoe
