// Collectives against plain loops over what every rank holds, for every dtype, odd sizes, none at
// all, and sizes on both sides of the switch between algorithms.
#include "dist/process_group.h"

#include <cstring>

#include "dist/reduce_tree.h"
#include "tests/dist/world.h"

namespace pyramoe {
namespace {

using dist::Counts;
using test::random_tensor;
using test::world;

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() &&
         (a.bytes() == 0 || std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0);
}

Tensor integers(int64_t n, DType dtype, int rank) {
  Tensor x({n}, dtype);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t value = (rank + 1) * 3 + i;
    if (dtype == DType::i64) x.data<int64_t>()[i] = value;
    if (dtype == DType::i32) x.data<int32_t>()[i] = static_cast<int32_t>(value);
    if (dtype == DType::u8) x.data<uint8_t>()[i] = static_cast<uint8_t>(value);
  }
  return x;
}

Tensor of_rank(int64_t n, DType dtype, int rank) {
  return is_floating(dtype) ? random_tensor({n}, dtype, 7, rank) : integers(n, dtype, rank);
}

const DType kNumbers[] = {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32};
const int64_t kSizes[] = {0, 1, 3, 33, 1025, 5000, 70001};

TEST(ProcessGroup, SumsAreTheTreeInRankOrder) {
  for (const DType dtype : kNumbers) {
    for (const int64_t n : kSizes) {
      Tensors parts;
      for (int r = 0; r < world().size(); ++r) parts.push_back(of_rank(n, dtype, r));
      Tensor expected({n}, dtype), x = of_rank(n, dtype, world().rank());
      dist::sum_tree(parts, expected);
      world().all_reduce(x);
      EXPECT_TRUE(same_bits(x, expected)) << to_string(dtype) << " " << n;
    }
  }
}

TEST(ProcessGroup, TheTreeOfHalvesIsTheTreeOfAll) {
  Tensors parts;
  for (int r = 0; r < 8; ++r) parts.push_back(random_tensor({100}, DType::f32, 3, r));
  Tensor all({100}, DType::f32), low({100}, DType::f32), high({100}, DType::f32);
  dist::sum_tree(parts, all);
  dist::sum_tree({parts.begin(), parts.begin() + 4}, low);
  dist::sum_tree({parts.begin() + 4, parts.end()}, high);
  Tensor both({100}, DType::f32);
  dist::sum_tree({low, high}, both);
  EXPECT_TRUE(same_bits(both, all));
}

TEST(ProcessGroup, MaximumOfAll) {
  for (const int64_t n : {1, 1000, 9999}) {
    Tensor x = random_tensor({n}, DType::f64, 5, world().rank());
    world().all_reduce(x, dist::Reduce::max);
    for (int64_t i = 0; i < n; ++i) {
      double most = -1e300;
      for (int r = 0; r < world().size(); ++r) {
        const RngKey key{5, RngPurpose::test, static_cast<uint32_t>(r), 0};
        most = std::max(most, random_normal(key, static_cast<uint64_t>(i)));
      }
      ASSERT_EQ(x.data<double>()[i], most);
    }
  }
}

TEST(ProcessGroup, GathersInRankOrder) {
  const int p = world().size();
  for (const DType dtype : {DType::f64, DType::bf16, DType::i64, DType::u8}) {
    const Tensor x = of_rank(13, dtype, world().rank());
    Tensor y({13 * p}, dtype);
    world().all_gather(x, y);
    for (int r = 0; r < p; ++r) {
      EXPECT_TRUE(same_bits(y.rows(13 * r, 13 * (r + 1)), of_rank(13, dtype, r)));
    }
  }
  // Ragged, with ranks that have nothing.
  Counts counts;
  int64_t total = 0;
  for (int r = 0; r < p; ++r) counts.push_back(r % 3 * 2), total += counts.back();
  const auto mine = counts[static_cast<size_t>(world().rank())];
  const Tensor x = random_tensor({mine, 3}, DType::f64, 2, world().rank());
  Tensor y({total, 3}, DType::f64);
  world().all_gather(x, y, counts);
  int64_t at = 0;
  for (int r = 0; r < p; ++r) {
    const int64_t n = counts[static_cast<size_t>(r)];
    EXPECT_TRUE(same_bits(y.rows(at, at + n), random_tensor({n, 3}, DType::f64, 2, r)));
    at += n;
  }
}

TEST(ProcessGroup, ReduceScatterIsAPartOfTheSum) {
  const int p = world().size(), me = world().rank();
  Tensor sum = random_tensor({p * 11, 2}, DType::f32, 9, me);
  const Tensor x = sum.clone();
  world().all_reduce(sum);
  Tensor y({11, 2}, DType::f32);
  world().reduce_scatter(x, y);
  EXPECT_TRUE(same_bits(y, sum.rows(me * 11, (me + 1) * 11)));
  Counts counts(static_cast<size_t>(p), 0);  // everything to the last rank
  counts.back() = p * 11;
  Tensor z({counts[static_cast<size_t>(me)], 2}, DType::f32);
  world().reduce_scatter(x, z, counts);
  if (me == p - 1) {
    EXPECT_TRUE(same_bits(z, sum));
  }
}

TEST(ProcessGroup, BroadcastFromEveryRank) {
  for (int root = 0; root < world().size(); ++root) {
    Tensor x = of_rank(77, DType::bf16, world().rank());
    world().broadcast(x, root);
    EXPECT_TRUE(same_bits(x, of_rank(77, DType::bf16, root)));
  }
}

TEST(ProcessGroup, AllToAllMovesRowsWithAnyCounts) {
  const int p = world().size(), me = world().rank();
  // Rank a sends (a * 5 + b * 3) % 4 rows to rank b: some nothing.
  const auto rows = [](int a, int b) { return int64_t{(a * 5 + b * 3) % 4}; };
  Counts send, recv;
  int64_t out = 0, in = 0;
  for (int r = 0; r < p; ++r) {
    send.push_back(rows(me, r)), out += send.back();
    recv.push_back(rows(r, me)), in += recv.back();
  }
  const Tensor x = random_tensor({out, 5}, DType::f64, 4, me);
  Tensor y({in, 5}, DType::f64);
  world().all_to_all(x, send, y, recv);
  int64_t at = 0;
  for (int r = 0; r < p; ++r) {
    int64_t all = 0, before = 0;
    for (int b = 0; b < p; ++b) {
      if (b < me) before += rows(r, b);
      all += rows(r, b);
    }
    const Tensor theirs = random_tensor({all, 5}, DType::f64, 4, r);
    EXPECT_TRUE(same_bits(y.rows(at, at + rows(r, me)), theirs.rows(before, before + rows(r, me))));
    at += rows(r, me);
  }
}

TEST(ProcessGroup, ManyCollectivesUnderWayAtOnce) {
  std::vector<Tensor> x;
  std::vector<dist::Work> works;
  for (int i = 0; i < 20; ++i) {
    x.push_back(random_tensor({i * 700 + 1}, DType::f32, static_cast<uint64_t>(i), world().rank()));
  }
  for (Tensor& t : x) works.push_back(world().start_all_reduce(t));
  for (size_t i = works.size(); i-- > 0;) works[i].wait();  // in another order than they began
  for (int i = 0; i < 20; ++i) {
    Tensors parts;
    for (int r = 0; r < world().size(); ++r) {
      parts.push_back(random_tensor({i * 700 + 1}, DType::f32, static_cast<uint64_t>(i), r));
    }
    Tensor expected = empty_like(x[static_cast<size_t>(i)]);
    dist::sum_tree(parts, expected);
    EXPECT_TRUE(same_bits(x[static_cast<size_t>(i)], expected)) << i;
  }
}

TEST(ProcessGroup, SplitGroupsTalkAmongThemselves) {
  const int p = world().size(), me = world().rank();
  const dist::ProcessGroup odd = world().split(me % 2, -me, "odd and even");  // ranks reversed
  Tensor x = Tensor::full({1}, DType::i64, 0);
  x.data<int64_t>()[0] = me;
  odd.all_reduce(x);
  int64_t expected = 0;
  for (int r = me % 2; r < p; r += 2) expected += r;
  EXPECT_EQ(x.data<int64_t>()[0], expected);
  for (int r = 0; r + 1 < odd.size(); ++r) {
    EXPECT_GT(odd.members()[static_cast<size_t>(r)], odd.members()[static_cast<size_t>(r) + 1]);
  }
}

TEST(ProcessGroup, CountsMessagesAndBytesByLink) {
  const int p = world().size();
  if (p == 1) GTEST_SKIP() << "one rank sends nothing";
  dist::Fabric& fabric = *world().fabric();
  fabric.set_node_size(std::max(1, p / 2));
  fabric.traffic().clear();
  const Tensor x({p, 4}, DType::f32);
  Tensor y({p, 4}, DType::f32);
  x.zero();
  world().all_to_all(x, y);
  const dist::TrafficRow row = fabric.traffic().row("all_to_all");
  EXPECT_EQ(row.messages[0], p / 2 - 1);
  EXPECT_EQ(row.messages[1], p / 2);
  EXPECT_EQ(row.bytes[0], (p / 2 - 1) * 16);
  EXPECT_EQ(row.bytes[1], p / 2 * 16);
  EXPECT_EQ(row.calls, 1);
  fabric.set_node_size(p);
}

TEST(ProcessGroup, RefusesWhatDoesNotFit) {
  Tensor x = Tensor::zeros({world().size() + 1, 2}, DType::f32), y = x;
  if (world().size() > 1) {
    EXPECT_THROW(world().all_to_all(x, y), Error);
  }
  const Counts wrong(static_cast<size_t>(world().size()) + 1, 1);
  EXPECT_THROW(world().all_to_all(x, wrong, y, wrong), Error);
  Tensor narrow = Tensor::zeros({1}, DType::f32);
  if (world().size() > 1) {
    EXPECT_THROW(world().all_gather(x, narrow), Error);
  }
}

}  // namespace
}  // namespace pyramoe
