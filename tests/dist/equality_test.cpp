// Any layout, the same model: five families on every layout of this world against one rank, in f64.
// Loss, balance and z losses, drops, loads, global norm and every gradient before clipping agree to
// 1e-12 after one step, loss and parameters to 1e-9 after twenty (of AdamW without accumulation; of
// all with PYRAMOE_THOROUGH=1). SGD as well as AdamW (which alone would hide a wrong scale), with
// and without accumulation.
#include <cstdlib>
#include <filesystem>

#include "tests/dist/families.h"
#include "tests/dist/world.h"

namespace pyramoe {
namespace {

using test::world;

struct Layout {
  const char* name;
  int ranks;
  void (*set)(dist::ParallelConfig&);
};

const Layout kLayouts[] = {
    {"one rank", 1, [](dist::ParallelConfig&) {}},
    {"data", 2, [](dist::ParallelConfig& p) { p.expert = "1"; }},
    {"expert", 2, [](dist::ParallelConfig&) {}},
    {"expert, fixed blocks", 2, [](dist::ParallelConfig& p) { p.blocks = true; }},
    {"tensor", 2, [](dist::ParallelConfig& p) { p.tensor = 2; }},
    {"tensor, coordinated", 2,
     [](dist::ParallelConfig& p) { p.tensor = 2, p.dispatcher = "coordinated"; }},
    {"zero 1", 2, [](dist::ParallelConfig& p) { p.zero = 1; }},
    {"data, overlap", 2, [](dist::ParallelConfig& p) { p.overlap = true; }},
    {"sliced experts", 2, [](dist::ParallelConfig& p) { p.expert_slice = 2; }},
    {"expert", 4, [](dist::ParallelConfig&) {}},
    {"data x expert, zero 2", 4, [](dist::ParallelConfig& p) { p.expert = "2", p.zero = 2; }},
    {"expert x tensor", 4, [](dist::ParallelConfig& p) { p.tensor = 2; }},
    {"expert x tensor, coordinated, zero 1", 4,
     [](dist::ParallelConfig& p) { p.tensor = 2, p.dispatcher = "coordinated", p.zero = 1; }},
    {"hierarchical 2 x 2", 4,
     [](dist::ParallelConfig& p) { p.dispatcher = "hierarchical", p.node_size = 2; }},
    {"sliced experts", 4, [](dist::ParallelConfig& p) { p.expert_slice = 2; }},
    {"tensor 4", 4, [](dist::ParallelConfig& p) { p.tensor = 4; }},
    {"expert", 8, [](dist::ParallelConfig&) {}},
    {"hierarchical 2 x 4", 8,
     [](dist::ParallelConfig& p) { p.dispatcher = "hierarchical", p.node_size = 4; }},
    {"data x expert x tensor, zero 2", 8,
     [](dist::ParallelConfig& p) { p.tensor = 2, p.expert = "2", p.zero = 2; }},
    {"expert x tensor 2, coordinated", 8,
     [](dist::ParallelConfig& p) { p.tensor = 2, p.dispatcher = "coordinated"; }},
    {"expert x tensor 4, coordinated", 8,
     [](dist::ParallelConfig& p) { p.tensor = 4, p.dispatcher = "coordinated"; }},
};

// A teacher run that every rank can read; rank 0 trains it a little.
class Teacher {
 public:
  Teacher() {
    path_ = (std::filesystem::temp_directory_path() /
             cat("pyramoe_teacher_", world().size(), "_", ::getppid()))
                .string();
    if (world().rank() == 0) {
      std::filesystem::remove_all(path_);
      train::RunConfig config = test::family_config("pr_moe", "");
      config.model.gate = "softmax";
      config.dir = path_;
      config.train.seed = 7;
      train::Trainer trainer(config, kCpu);
      trainer.step();
      trainer.save();
    }
    world().barrier();
  }
  ~Teacher() {
    world().barrier();
    if (world().rank() == 0) std::filesystem::remove_all(path_);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(Equality, EveryFamilyOnEveryLayout) {
  const Teacher teacher;
  const bool thorough = std::getenv("PYRAMOE_THOROUGH") != nullptr;
  int cases = 0;
  for (const std::string& family : test::families()) {
    for (const char* optimizer : {"sgd", "adamw"}) {
      train::RunConfig config = test::family_config(family, teacher.path());
      config.train.optimizer = optimizer;
      // The one rank that all are compared with.
      config.train.micro_batch = 4;
      test::Trace want[2];  // of one step, of twenty
      if (world().rank() == 0) {
        want[0] = test::trace_of(config, dist::ProcessGroup(), 1);
        want[1] = test::trace_of(config, dist::ProcessGroup(), 20);
      }
      for (const Layout& layout : kLayouts) {
        if (layout.ranks != world().size()) continue;
        for (const int64_t accumulation : {1, 2}) {
          train::RunConfig many = config;
          layout.set(many.parallel);
          const int64_t data = layout.ranks / many.parallel.tensor;
          many.train.micro_batch = 16 / data / accumulation;
          if (many.parallel.node_size > 0) {
            world().fabric()->set_node_size(static_cast<int>(many.parallel.node_size));
          }
          const bool longer = thorough || (accumulation == 1 && config.train.optimizer == "adamw");
          const test::Trace got = test::trace_of(many, world(), longer ? 20 : 1);
          if (world().fabric()) world().fabric()->set_node_size(world().size());
          ++cases;
          if (world().rank() > 0) continue;
          const std::string wrong = test::difference(got, want[longer], 1e-12, 1e-9);
          EXPECT_EQ(wrong, "") << family << ", " << optimizer << ", " << layout.name << " on "
                               << layout.ranks << " ranks, accumulation " << accumulation;
        }
      }
    }
  }
  if (world().rank() == 0) std::printf("%d layouts equal to one rank\n", cases);
}

}  // namespace
}  // namespace pyramoe
