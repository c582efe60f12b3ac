// Any layout, the same model: five families on every layout of this world against one rank, in f64.
// Loss, balance and z losses, drops, loads, global norm and every gradient before clipping agree to
// 1e-12 after one step, loss and parameters to 1e-9 after twenty (of AdamW without accumulation; of
// all with PYRAMOE_THOROUGH=1). SGD as well as AdamW (which alone would hide a wrong scale), with
// and without accumulation. In f32 the bound is derived (tests/dist/families.h); reduction that
// overlaps with backward changes no bit.
#include <cstdlib>
#include <functional>

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
    {"sliced experts x tensor", 4,
     [](dist::ParallelConfig& p) { p.expert_slice = 2, p.tensor = 2; }},
    {"tensor 4", 4, [](dist::ParallelConfig& p) { p.tensor = 4; }},
    {"expert", 8, [](dist::ParallelConfig&) {}},
    {"hierarchical 2 x 4", 8,
     [](dist::ParallelConfig& p) { p.dispatcher = "hierarchical", p.node_size = 4; }},
    {"data x expert x tensor, zero 2", 8,
     [](dist::ParallelConfig& p) { p.tensor = 2, p.expert = "2", p.zero = 2; }},
    {"sliced experts x expert x tensor", 8,
     [](dist::ParallelConfig& p) { p.expert_slice = 2, p.tensor = 2; }},
    {"sliced experts x expert x tensor, coordinated", 8,
     [](dist::ParallelConfig& p) {
       p.expert_slice = 2, p.tensor = 2, p.dispatcher = "coordinated";
     }},
    {"expert x tensor 2, coordinated", 8,
     [](dist::ParallelConfig& p) { p.tensor = 2, p.dispatcher = "coordinated"; }},
    {"expert x tensor 4, coordinated", 8,
     [](dist::ParallelConfig& p) { p.tensor = 4, p.dispatcher = "coordinated"; }},
};

// The layouts of this world, one after the other; virtual nodes are set for each.
void for_each_layout(const train::RunConfig& config, int64_t accumulation,
                     const std::function<void(const Layout&, const train::RunConfig&)>& f) {
  for (const Layout& layout : kLayouts) {
    if (layout.ranks != world().size()) continue;
    train::RunConfig many = config;
    layout.set(many.parallel);
    many.train.micro_batch = 16 / (layout.ranks / many.parallel.tensor) / accumulation;
    if (many.parallel.node_size > 0) {
      world().fabric()->set_node_size(static_cast<int>(many.parallel.node_size));
    }
    f(layout, many);
    if (world().fabric()) world().fabric()->set_node_size(world().size());
  }
}

TEST(Equality, EveryFamilyOnEveryLayout) {
  const test::Teacher teacher;
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
      for (const int64_t accumulation : {1, 2}) {
        const bool longer = thorough || (accumulation == 1 && config.train.optimizer == "adamw");
        for_each_layout(
            config, accumulation, [&](const Layout& layout, const train::RunConfig& many) {
              const test::Trace got = test::trace_of(many, world(), longer ? 20 : 1);
              ++cases;
              if (world().rank() > 0) return;
              const std::string wrong = test::difference(got, want[longer], 1e-12, 1e-9);
              EXPECT_EQ(wrong, "") << family << ", " << optimizer << ", " << layout.name << " on "
                                   << layout.ranks << " ranks, accumulation " << accumulation;
            });
      }
    }
  }
  if (world().rank() == 0) std::printf("%d layouts equal to one rank\n", cases);
}

TEST(Equality, OverlapChangesNoBit) {
  if (world().size() == 1) GTEST_SKIP() << "one rank reduces nothing";
  int cases = 0;
  for (const char* family : {"dense", "top1", "pr_moe"}) {
    for (const int64_t accumulation : {1, 2}) {
      train::RunConfig config = test::family_config(family, "");
      config.train.dtype = "f32";
      for_each_layout(config, accumulation, [&](const Layout& layout, train::RunConfig many) {
        many.parallel.overlap = false;
        const test::Trace want = test::trace_of(many, world(), 3);
        many.parallel.overlap = true;
        const test::Trace got = test::trace_of(many, world(), 3);
        ++cases;
        if (world().rank() > 0) return;
        EXPECT_EQ(test::bit_difference(got, want), "")
            << family << ", " << layout.name << ", accumulation " << accumulation;
      });
    }
  }
  if (world().rank() == 0) std::printf("%d layouts with the same bits under overlap\n", cases);
}

TEST(Equality, SinglePrecisionStaysWithinItsBound) {
  double worst = 0;
  for (const char* family : {"dense", "top1", "top2", "pr_moe"}) {
    train::RunConfig config = test::family_config(family, "");
    config.train.micro_batch = 4;
    test::Trace want;
    test::RoundingBound bound;
    if (world().rank() == 0) {
      bound = test::rounding_bound(config, test::trace_of(config, {}, 1), DType::f32);
    }
    config.train.dtype = "f32";
    if (world().rank() == 0) want = test::trace_of(config, {}, 1);
    for_each_layout(config, 2, [&](const Layout& layout, const train::RunConfig& many) {
      const test::Trace got = test::trace_of(many, world(), 1);
      if (world().rank() > 0) return;
      EXPECT_EQ(bound.check(got.first, want.first), "") << family << ", " << layout.name;
    });
    worst = std::max(worst, bound.worst);
  }
  if (world().rank() == 0) std::printf("f32 differs by at most %.2g of its bound\n", worst);
}

}  // namespace
}  // namespace pyramoe
