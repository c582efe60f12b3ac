// A fuzzer with an oracle: random models on random layouts of this world against one rank, in f64.
// Case i of a seed is always the same; PYRAMOE_FUZZ_CASES and PYRAMOE_FUZZ_SEED choose more.
// tests/dist/planted.sh shows that it finds planted bugs.
#include <cstdlib>

#include "tests/dist/families.h"
#include "tests/dist/world.h"

namespace pyramoe {
namespace {

using test::world;

int64_t setting(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoll(text) : otherwise;
}

// Draws of one case, equal on all ranks.
class Draws {
 public:
  Draws(uint64_t seed, uint64_t number)
      : key_{seed, RngPurpose::test, static_cast<uint32_t>(number), 77} {}
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return *(values.begin() + random_u32(key_, next_++) % values.size());
  }
  bool chance(int percent) {
    return random_u32(key_, next_++) % 100 < static_cast<uint32_t>(percent);
  }

 private:
  RngKey key_;
  uint64_t next_ = 0;
};

void draw_model(Draws& d, moe::ModelConfig& m) {
  m.layers = 2;
  m.dim = d.one_of<int64_t>({8, 24});
  m.heads = 4;
  m.context = d.one_of<int64_t>({4, 8, 12});
  m.vocab = d.one_of<int64_t>({16, 40});
  m.hidden = 16;
  m.expert_hidden = d.one_of<int64_t>({16, 48});
  m.init_std = d.one_of({0.1, 0.5, 1.5});  // the larger, the more skewed the routing
  m.bias = d.chance(70);
  m.dropout = d.one_of({0.0, 0.2});
  m.experts = d.one_of<const char*>({"0", "0 4", "8", "4 8", "2", "6 3", "0 16"});
  if (m.experts == "0") return;
  m.top_k = d.one_of<int64_t>({1, 2});
  m.capacity_factor = d.one_of({0.0, 0.5, 1.0, 2.0});
  m.min_capacity = 1;
  m.drop_by = d.one_of<const char*>({"position", "probability", "random"});
  m.gate = d.one_of<const char*>({"softmax", "sigmoid_bias"});
  m.noise = d.one_of<const char*>({"none", "jitter", "rsample"});
  m.renormalize = d.chance(50);
  m.residual = d.chance(50);
  m.residual_mix = d.one_of<const char*>({"sum", "learned"});
  m.balance_loss = d.one_of<const char*>({"first", "all"});
  m.balance_coef = 0.1;
  m.z_coef = d.one_of({0.0, 0.01});
}

void draw_layout(Draws& d, const moe::ModelConfig& m, dist::ParallelConfig& p) {
  const int ranks = world().size();
  p.tensor = d.one_of<int64_t>({1, 1, 2, 4});
  while (p.tensor > ranks) p.tensor /= 2;
  p.dispatcher = d.one_of<const char*>({"flat", "hierarchical", "coordinated", "einsum"});
  if (p.dispatcher == "einsum" && m.capacity_factor == 0) p.dispatcher = "flat";
  p.node_size = d.one_of<int64_t>({0, 1, 2, 4});
  if (d.chance(25) && ranks / p.tensor % 2 == 0) p.expert_slice = 2;
  p.expert = d.chance(25) ? "1" : "auto";
  p.blocks = d.chance(30);
  p.zero = d.one_of<int64_t>({0, 1, 2});
  p.overlap = d.chance(40);
}

std::string describe(const train::RunConfig& c) {
  return cat("experts \"", c.model.experts, "\" k ", c.model.top_k, " capacity ",
             c.model.capacity_factor, " ", c.model.drop_by, " ", c.model.gate, " ", c.model.noise,
             " dropout ", c.model.dropout, " residual ", c.model.residual, " group ", c.model.group,
             " dim ", c.model.dim, " T ", c.model.context, "; ", world().size(), " ranks, tensor ",
             c.parallel.tensor, " ", c.parallel.dispatcher, " nodes of ", c.parallel.node_size,
             " slice ", c.parallel.expert_slice, " expert ", c.parallel.expert, " blocks ",
             c.parallel.blocks, " zero ", c.parallel.zero, " overlap ", c.parallel.overlap,
             " recompute ", c.train.recompute, " micro ", c.train.micro_batch, " of ",
             c.train.batch, " ", c.train.optimizer);
}

struct Case {
  train::RunConfig one, many;  // the same model and batch
};

Case draw_case(int64_t number) {
  const auto seed = static_cast<uint64_t>(setting("PYRAMOE_FUZZ_SEED", 1));
  Draws d(seed, static_cast<uint64_t>(number * 16 + world().size()));
  Case c;
  train::RunConfig& one = c.one;
  one.data.synthetic = true;
  one.train.dtype = "f64";
  one.train.steps = 2;
  one.train.lr = 0.01;
  one.train.min_lr = 0.001;
  draw_model(d, one.model);
  one.train.optimizer = d.one_of<const char*>({"sgd", "adamw"});
  c.many = one;
  train::RunConfig& many = c.many;
  draw_layout(d, one.model, many.parallel);
  const int64_t data = world().size() / many.parallel.tensor;
  many.train.micro_batch = d.one_of<int64_t>({1, 2, 4});
  // Tokens of a pass must divide among tensor ranks: contexts and micro-batches here do.
  many.train.batch = many.train.micro_batch * data * d.one_of<int64_t>({1, 2});
  many.model.group = d.chance(50) ? many.train.micro_batch : 1;
  many.train.recompute = d.chance(40);
  one.train.batch = many.train.batch;
  one.model.group = many.model.group;
  one.train.micro_batch = many.train.micro_batch;
  return c;
}

test::Trace trace_on_all(const train::RunConfig& many) {
  if (world().fabric()) {
    const int node = static_cast<int>(many.parallel.node_size);
    world().fabric()->set_node_size(node > 0 ? node : world().size());
  }
  test::Trace got = test::trace_of(many, world(), 2);
  if (world().fabric()) world().fabric()->set_node_size(world().size());
  return got;
}

TEST(LayoutFuzz, RandomModelsOnRandomLayoutsEqualOneRank) {
  const int64_t cases = setting("PYRAMOE_FUZZ_CASES", 10);
  double worst = 0;
  for (int64_t i = 0; i < cases; ++i) {
    const auto [one, many] = draw_case(i);
    test::Trace want;
    test::RoundingBound bound;
    if (world().rank() == 0) {
      want = test::trace_of(one, dist::ProcessGroup(), 2);
      bound = test::rounding_bound(one, want, DType::f64);
    }
    const test::Trace got = trace_on_all(many);
    if (world().rank() > 0) continue;
    const std::string wrong = bound.check(got.first, want.first);
    EXPECT_EQ(wrong, "") << "first step: " << wrong << ", case " << i << ": " << describe(many);
    EXPECT_EQ(test::difference(got, want, 1e-9, 1e-9), "")
        << "case " << i << ": " << describe(many);
    worst = std::max(worst, bound.worst);
  }
  if (world().rank() == 0) std::printf("differences of at most %.2g of their bounds\n", worst);
}

// parallel.deterministic = "layout" on what it covers: no tolerance.
TEST(LayoutFuzz, DeterministicLayoutsHaveTheBitsOfOneRank) {
  const int64_t cases = setting("PYRAMOE_FUZZ_CASES", 10);
  for (int64_t i = 0; i < cases; ++i) {
    auto [one, many] = draw_case(1000 + i);
    dist::ParallelConfig& p = many.parallel;
    many.train.micro_batch *= p.tensor;  // what tensor ranks would have shared, a rank does alone
    many.train.batch *= p.tensor * p.tensor;
    p.tensor = p.expert_slice = 1;
    p.zero = std::min<int64_t>(p.zero, 1);
    p.overlap = false;
    if (p.dispatcher == "einsum") p.dispatcher = "flat";
    one.train.micro_batch = many.train.micro_batch;
    one.train.batch = many.train.batch;
    for (train::RunConfig* config : {&one, &many}) {
      config->parallel.deterministic = "layout";
      config->train.dtype = i % 2 == 0 ? "f32" : "f64";
    }
    test::Trace want;
    if (world().rank() == 0) want = test::trace_of(one, dist::ProcessGroup(), 2);
    const test::Trace got = trace_on_all(many);
    if (world().rank() > 0) continue;
    EXPECT_EQ(test::bit_difference(got, want), "") << "case " << i << ": " << describe(many);
  }
}

}  // namespace
}  // namespace pyramoe
