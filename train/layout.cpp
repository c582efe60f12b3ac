#include "train/layout.h"

#include <new>

#include "moe/layer_plan.h"

namespace pyramoe::train {
namespace {

void must_divide(const char* key, int64_t value, const char* what, int64_t parts) {
  if (value % parts == 0) return;
  fail(Exit::config, key, " = ", value, " does not divide among ", parts, " ", what, "; use ",
       value / parts * parts + parts, ", or ", dist::nearest_divisors(value, parts), " of them");
}

bool is_power_of_two(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

void check_model(const RunConfig& c, const dist::Mesh& mesh) {
  const int64_t t = mesh.tensor().size();
  must_divide("model.heads", c.model.heads, "tensor ranks", t);
  must_divide("model.vocab", c.model.vocab, "tensor ranks", t);
  must_divide("model.hidden", c.model.dense_hidden(), "tensor ranks", t);
  for (const int64_t experts : layer_experts(c)) {
    if (experts == 0) continue;
    const dist::ExpertGroups& groups = mesh.expert(experts);
    if (c.model.budget > 0 && (groups.degree > 1 || groups.shard.size() > 1)) {
      fail(Exit::config, "moe.budget moves experts that every rank holds whole; use ",
           "parallel.expert = 1 and parallel.tensor = 1 (data ranks and parallel.zero are fine)");
    }
    must_divide("moe.hidden", c.model.moe_hidden(), "ranks of an expert",
                mesh.expert(experts).shard.size());
    if (c.model.residual) {
      must_divide("moe.shared_hidden", c.model.residual_hidden(), "tensor ranks", t);
    }
  }
}

// What parallel.deterministic = "layout" can promise. The tree over micro-batches must have a
// branch for every data rank, and the tree over ranks one for every set of experts.
void check_deterministic(const RunConfig& c, const dist::Mesh& mesh) {
  if (!c.parallel.same_on_any_layout()) return;
  const auto needs = [](const auto&... words) {
    fail(Exit::config, "parallel.deterministic = layout ", words...);
  };
  if (c.train.states == "bf16") needs("adds up gradients in f32: set train.states = f32");
  if (c.model.dispatch == "einsum" || c.parallel.dispatcher == "einsum") {
    needs("needs sorted rows: set moe.dispatch = segments and parallel.dispatcher = flat");
  }
  if (!mesh.many()) return;
  if (mesh.tensor().size() > 1 || c.parallel.expert_slice > 1) {
    needs("covers data and expert ranks; tensor ranks and expert slices cut sums inside a token. ",
          "Set parallel.tensor = 1 and parallel.expert_slice = 1");
  }
  if (c.parallel.overlap || c.parallel.zero > 1) {
    needs("keeps whole gradients until the last micro-batch is done: set parallel.overlap = false ",
          "and parallel.zero = 0 or 1");
  }
  const int64_t data = mesh.data().size(), parts = c.train.batch / (c.micro_batch() * data);
  if (data > 1 && (!is_power_of_two(parts) || c.train.ramp_start > 0)) {
    needs("needs 1, 2, 4, 8, … micro-batches a data rank at every step; train.batch = ",
          c.train.batch, " in micro-batches of ", c.micro_batch(), " on ", data, " data ranks are ",
          parts,
          c.train.ramp_start > 0 ? " at the end of the ramp. Set train.ramp_start = 0"
                                 : ". Change train.micro_batch or train.batch");
  }
  for (const int64_t experts : layer_experts(c)) {
    if (experts == 0) continue;
    const dist::ExpertGroups& g = mesh.expert(experts);
    if (g.copies.size() > 1 && !is_power_of_two(g.degree)) {
      needs("needs an expert degree of 1, 2, 4, 8, … where experts have copies, but the layers of ",
            experts, " have ", g.degree, " with ", g.copies.size(),
            " copies. Set parallel.expert = 1");
    }
  }
}

void check_batch(const RunConfig& c, const dist::Mesh& mesh) {
  const int64_t data = mesh.data().size(), t = mesh.tensor().size();
  const auto smallest = c.train.ramp_start > 0 ? c.train.ramp_start : c.train.batch;
  must_divide("train.batch", c.train.batch, "data ranks", data);
  const int64_t pass = c.micro_batch() * data;
  for (const int64_t batch : {c.train.batch, smallest}) {
    if (batch % pass == 0) continue;
    fail(Exit::config, "train.micro_batch = ", c.micro_batch(), " on ", data, " data ranks are ",
         pass, " sequences a pass, which does not divide a batch of ", batch,
         "; use train.micro_batch = ",
         dist::nearest_divisors(std::max<int64_t>(1, batch / data), c.micro_batch()),
         ", or train.batch = ", (batch + pass - 1) / pass * pass);
  }
  bool experts = false;
  for (const int64_t count : layer_experts(c)) experts |= count > 0;
  if (experts && c.micro_batch() % c.model.group != 0) {
    fail(Exit::config, "moe.group = ", c.model.group, " does not divide the ", c.micro_batch(),
         " sequences of a rank's pass; a routing group must lie on one rank. Use ",
         dist::nearest_divisors(c.micro_batch(), c.model.group), ", or fewer data ranks");
  }
  if (t > 1 && c.parallel.dispatcher == "coordinated") {
    must_divide("tokens of a rank's pass", c.micro_batch() * c.model.context, "tensor ranks", t);
  }
}

}  // namespace

std::vector<int64_t> layer_experts(const RunConfig& config) {
  std::vector<int64_t> experts;
  for (const moe::LayerPlan& layer : moe::layer_plan(config.model)) {
    experts.push_back(layer.experts);
  }
  return experts;
}

void on_rank_0(const dist::ProcessGroup& world, const std::function<void()>& work) {
  if (world.size() == 1) return work();
  Tensor status = Tensor::zeros({1}, DType::i32);
  std::string words;
  if (world.rank() == 0) {
    try {
      work();
    } catch (const Error& error) {
      status.data<int32_t>()[0] = static_cast<int32_t>(error.code());
      words = error.what();
    } catch (const std::bad_alloc&) {
      status.data<int32_t>()[0] = static_cast<int32_t>(Exit::memory);
      words = "out of memory";
    }
  }
  world.broadcast(status, 0);
  const auto code = static_cast<Exit>(status.data<int32_t>()[0]);
  if (code != Exit::done) throw Error(code, words);  // one rank says it
}

dist::Mesh make_mesh(const dist::ProcessGroup& world, RunConfig& config) {
  dist::Mesh mesh(world, config.parallel, layer_experts(config));
  config.data_ranks = mesh.data().size();
  check_model(config, mesh);
  check_batch(config, mesh);
  check_deterministic(config, mesh);
  return mesh;
}

}  // namespace pyramoe::train
