// Who shares what with whom, against the definition; degrees; refusals that name what fits.
#include "dist/mesh.h"

#include "tests/dist/world.h"

namespace pyramoe {
namespace {

using dist::expert_degree;
using dist::Mesh;
using dist::ParallelConfig;
using test::world;

std::string refusal(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::config);
    return error.what();
  }
  return "";
}

TEST(Mesh, DegreesUseAllRanks) {
  EXPECT_EQ(expert_degree(4, 8, "auto"), 4);
  EXPECT_EQ(expert_degree(8, 8, "auto"), 8);
  EXPECT_EQ(expert_degree(32, 64, "auto"), 32);
  EXPECT_EQ(expert_degree(64, 64, "auto"), 64);
  EXPECT_EQ(expert_degree(128, 64, "auto"), 64);
  EXPECT_EQ(expert_degree(6, 4, "auto"), 2);
  EXPECT_EQ(expert_degree(3, 4, "auto"), 1);
  EXPECT_EQ(expert_degree(8, 8, "2"), 2);
  EXPECT_NE(refusal([] { expert_degree(8, 8, "3"); }).find("2 or 4"), std::string::npos);
}

TEST(Mesh, APyramidHasTwoDegreesAtOnce) {
  const int p = world().size();
  const int64_t experts[] = {0, p, 0, std::max(1, p / 2)};
  const Mesh mesh(world(), ParallelConfig{}, experts);
  EXPECT_EQ(mesh.data().size(), p);
  EXPECT_EQ(mesh.tensor().size(), 1);
  EXPECT_EQ(mesh.expert(p).degree, p);
  EXPECT_EQ(mesh.expert(p).copies.size(), 1);
  if (p >= 4) {
    const dist::ExpertGroups& half = mesh.expert(p / 2);
    EXPECT_EQ(half.degree, p / 2);
    ASSERT_EQ(half.copies.size(), 2);
    EXPECT_EQ(half.copies.members()[1] - half.copies.members()[0], p / 2);
    EXPECT_EQ(half.exchange.members()[0], world().rank() / (p / 2) * (p / 2));
    EXPECT_NE(mesh.table(experts).find(cat(p / 2)), std::string::npos);
  }
}

TEST(Mesh, TensorIsInnermost) {
  const int p = world().size();
  if (p < 4) GTEST_SKIP() << "needs 4 ranks";
  ParallelConfig config;
  config.tensor = 2;
  const int64_t experts[] = {4};
  const Mesh mesh(world(), config, experts);
  EXPECT_EQ(mesh.tensor().members()[0], world().rank() / 2 * 2);
  EXPECT_EQ(mesh.data().size(), p / 2);
  EXPECT_EQ(mesh.data().members()[0], world().rank() % 2);
  EXPECT_EQ(mesh.expert(4).degree, std::min(4, p / 2));
  EXPECT_EQ(mesh.expert(4).shard.size(), 2);
}

TEST(Mesh, SlicesTakeTheRanksThatExpertsLeaveIdle) {
  const int p = world().size();
  if (p < 4) GTEST_SKIP() << "needs 4 ranks";
  ParallelConfig config;
  config.expert_slice = 2;
  const int64_t experts[] = {p / 2};
  const Mesh mesh(world(), config, experts);
  const dist::ExpertGroups& g = mesh.expert(p / 2);
  EXPECT_EQ(g.degree, p / 2);
  EXPECT_EQ(g.shard.size(), 2);
  EXPECT_EQ(g.shard.members()[0], world().rank() / 2 * 2);
  EXPECT_EQ(g.exchange.members()[0], world().rank() % 2);
  EXPECT_EQ(g.exchange.members()[1], world().rank() % 2 + 2);
  EXPECT_EQ(g.copies.size(), 1);
  EXPECT_EQ(g.holders.size(), 2);
}

TEST(Mesh, RefusesWithTheNearestPossible) {
  const int p = world().size();
  const int64_t experts[] = {4};
  ParallelConfig config;
  config.tensor = p + 1;
  EXPECT_NE(refusal([&] { Mesh(world(), config, experts); }).find("mpirun -np"), std::string::npos);
  config = {};
  config.data = p + 1;
  EXPECT_NE(refusal([&] { Mesh(world(), config, experts); }).find(cat("parallel.data = ", p)),
            std::string::npos);
  config = {};
  config.expert_slice = 3;
  EXPECT_NE(refusal([&] { Mesh(world(), config, experts); }).find("expert_slice"),
            std::string::npos);
}

}  // namespace
}  // namespace pyramoe
