// Checkpoints know no layout: saved on any, loaded on any other, weights and optimizer are the same
// bits, and the run goes on with the same samples.
#include "tests/dist/families.h"
#include "tests/dist/world.h"

namespace pyramoe {
namespace {

using test::world;

struct Layout {
  const char* name;
  int64_t tensor, zero;
  const char* expert;
};

TEST(LayoutFreeCheckpoint, SavedOnAnyLoadedOnAnyOther) {
  const int p = world().size();
  const Layout layouts[] = {{"expert", 1, 0, "auto"},
                            {"copies, zero 1", 1, 1, "1"},
                            {"tensor, zero 2", std::min(2, p), 2, "auto"},
                            {"all tensor", std::min(4, p), 0, "auto"}};
  for (const auto& [dtype, states] :
       {std::pair{"f32", "f32"}, std::pair{"bf16", "f32"}, std::pair{"bf16", "bf16"}}) {
    const test::SharedFolder folder;
    test::Bits saved;
    int64_t step = 0;
    for (const Layout& layout : layouts) {
      train::RunConfig config = test::family_config("pr_moe", "");
      config.train.dtype = dtype;
      config.train.states = states;
      config.dir = folder.path();
      config.parallel.tensor = layout.tensor;
      config.parallel.zero = layout.zero;
      config.parallel.expert = layout.expert;
      config.train.micro_batch = 2;
      const dist::Mesh mesh = train::make_mesh(world(), config);
      train::Trainer trainer(config, kCpu, &mesh);
      if (step > 0) {
        trainer.resume(nn::Checkpoint::newest(config.dir));
        ASSERT_EQ(trainer.steps_done(), step);
        const test::Bits loaded = test::whole_state(trainer);
        if (world().rank() == 0) {
          SCOPED_TRACE(cat(layout.name, ", ", dtype, ", states in ", states));
          test::expect_equal_bits(saved, loaded);
        }
      }
      trainer.step();
      trainer.step();
      step += 2;
      EXPECT_EQ(trainer.tokens_seen(), step * 16 * 8);
      trainer.save();
      saved = test::whole_state(trainer);
    }
    if (world().rank() > 0) continue;
    // One rank alone reads it too.
    train::RunConfig config = test::family_config("pr_moe", "");
    config.train.dtype = dtype;
    config.train.states = states;
    config.dir = folder.path();
    train::Trainer alone(config, kCpu);
    alone.resume(nn::Checkpoint::newest(config.dir));
    test::expect_equal_bits(saved, test::whole_state(alone));
  }
}

}  // namespace
}  // namespace pyramoe
