// parallel.deterministic = "layout": not nearly the same model on any data and expert layout, but
// the same bits: loss, aux, norm, every gradient and, some steps later, every weight.
#include "dist/pairwise_sum.h"
#include "dist/reduce_tree.h"
#include "tests/dist/families.h"
#include "tests/dist/world.h"

namespace pyramoe {
namespace {

using test::world;

TEST(PairwiseSum, IsTheTreeOfAllAtOnce) {
  dist::PairwiseSum sum;
  for (int n = 1; n <= 37; ++n) {
    Tensors parts;
    for (int i = 0; i < n; ++i) {
      parts.push_back(test::random_tensor({3, 5}, DType::f32, static_cast<uint64_t>(n), i));
      sum.add(parts.back());
    }
    Tensor want({3, 5}, DType::f32), got({3, 5}, DType::f32);
    dist::sum_tree(parts, want);
    sum.take(got);
    EXPECT_EQ(test::bits_of(got), test::bits_of(want)) << n << " tensors";
  }
}

TEST(PairwiseSum, RanksWithAPowerOfTwoEachAreBranches) {
  for (const int each : {1, 2, 4, 8}) {
    dist::PairwiseSum own;
    Tensors all;
    for (int i = 0; i < each * world().size(); ++i) {
      all.push_back(test::random_tensor({9000}, DType::f32, 3, i));
      if (i / each == world().rank()) own.add(all.back());
    }
    Tensor want({9000}, DType::f32), got({9000}, DType::f32);
    dist::sum_tree(all, want);
    own.take(got);
    world().all_reduce(got);
    EXPECT_EQ(test::bits_of(got), test::bits_of(want)) << each << " a rank";
  }
}

struct Layout {
  const char* name;
  int ranks;
  void (*set)(dist::ParallelConfig&);
};

const Layout kLayouts[] = {
    {"one rank in a mesh", 1, [](dist::ParallelConfig&) {}},
    {"data", 2, [](dist::ParallelConfig& p) { p.expert = "1"; }},
    {"expert", 2, [](dist::ParallelConfig&) {}},
    {"expert, fixed blocks, zero 1", 2,
     [](dist::ParallelConfig& p) { p.blocks = true, p.zero = 1; }},
    {"data", 4, [](dist::ParallelConfig& p) { p.expert = "1", p.zero = 1; }},
    {"expert", 4, [](dist::ParallelConfig&) {}},
    {"data x expert", 4, [](dist::ParallelConfig& p) { p.expert = "2"; }},
    {"hierarchical 2 x 2", 4,
     [](dist::ParallelConfig& p) { p.dispatcher = "hierarchical", p.node_size = 2; }},
    {"expert", 8, [](dist::ParallelConfig&) {}},
    {"data x expert", 8, [](dist::ParallelConfig& p) { p.expert = "2", p.zero = 1; }},
};

train::RunConfig config_for(const std::string& family, const std::string& teacher) {
  train::RunConfig config = test::family_config(family, teacher);
  config.parallel.deterministic = "layout";
  config.train.micro_batch = 2;
  return config;
}

TEST(LayoutSum, EveryLayoutHasTheBitsOfOneRank) {
  const test::Teacher teacher;
  const int64_t steps = 6;
  int cases = 0;
  for (const std::string& family : test::families()) {
    for (const auto& [dtype, optimizer] :
         {std::pair{"f64", "sgd"}, std::pair{"f32", "adamw"}, std::pair{"bf16", "adamw"}}) {
      train::RunConfig config = config_for(family, teacher.path());
      config.train.dtype = dtype;
      config.train.optimizer = optimizer;
      if (family == "mos" && config.train.dtype != "f64") continue;  // the teacher is in f64
      test::Trace want;
      if (world().rank() == 0) want = test::trace_of(config, dist::ProcessGroup(), steps);
      for (const Layout& layout : kLayouts) {
        if (layout.ranks != world().size()) continue;
        train::RunConfig many = config;
        layout.set(many.parallel);
        if (many.parallel.node_size > 0) {
          world().fabric()->set_node_size(static_cast<int>(many.parallel.node_size));
        }
        const test::Trace got = test::trace_of(many, world(), steps);
        if (world().fabric()) world().fabric()->set_node_size(world().size());
        ++cases;
        if (world().rank() > 0) continue;
        EXPECT_EQ(test::bit_difference(got, want), "")
            << family << ", " << dtype << ", " << layout.name << " on " << layout.ranks << " ranks";
      }
    }
  }
  if (world().rank() == 0) std::printf("%d layouts with the bits of one rank\n", cases);
}

// A routing group is the default micro-batch, so one rank and many agree without being told.
TEST(LayoutSum, MicroBatchIsTheRoutingGroup) {
  train::RunConfig config = config_for("top1", "");
  config.train.micro_batch = 0;
  config.model.group = 2;
  test::Trace want;
  if (world().rank() == 0) want = test::trace_of(config, dist::ProcessGroup(), 2);
  const test::Trace got = test::trace_of(config, world(), 2);
  if (world().rank() > 0) return;
  EXPECT_EQ(test::bit_difference(got, want), "");
}

// Half on these ranks, half on one: the bits of one rank all the way, moments included.
TEST(LayoutSum, ARunMayChangeItsLayout) {
  const test::SharedFolder folder;
  train::RunConfig config = config_for("pr_moe", "");
  config.dir = folder.path();
  config.train.dtype = "f32";
  {
    const dist::Mesh mesh = train::make_mesh(world(), config);
    train::Trainer trainer(config, kCpu, &mesh);
    for (int i = 0; i < 3; ++i) trainer.step();
    trainer.save();
  }
  if (world().rank() > 0) return;
  train::Trainer moved(config, kCpu), whole(config, kCpu);
  moved.resume(nn::Checkpoint::newest(config.dir));
  for (int i = 0; i < 3; ++i) moved.step();
  for (int i = 0; i < 6; ++i) whole.step();
  test::expect_equal_bits(test::whole_state(whole), test::whole_state(moved));
}

std::string refusal(train::RunConfig config) {
  try {
    train::make_mesh(world(), config);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::config);
    return error.what();
  }
  return "";
}

TEST(LayoutSum, RefusesWhatItCannotPromise) {
  if (world().size() == 1) GTEST_SKIP() << "one rank is one layout";
  train::RunConfig config = config_for("top1", "");
  config.parallel.tensor = 2;
  EXPECT_NE(refusal(config).find("parallel.tensor = 1"), std::string::npos);
  config = config_for("top1", "");
  config.parallel.zero = 2;
  EXPECT_NE(refusal(config).find("parallel.zero = 0 or 1"), std::string::npos);
  config = config_for("top1", "");
  config.train.batch = 3 * 2 * world().size();  // three micro-batches a rank
  EXPECT_NE(refusal(config).find("1, 2, 4, 8"), std::string::npos);
}

}  // namespace
}  // namespace pyramoe
