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

void check_model(const RunConfig& c, const dist::Mesh& mesh) {
  const int64_t t = mesh.tensor().size();
  must_divide("model.heads", c.model.heads, "tensor ranks", t);
  must_divide("model.vocab", c.model.vocab, "tensor ranks", t);
  must_divide("model.hidden", c.model.dense_hidden(), "tensor ranks", t);
  if (mesh.many() && c.train.states == "bf16") {
    fail(Exit::config, "train.states = bf16 rounds weights by their place in this rank's memory: ",
         "runs on several ranks would differ from one; use train.states = f32");
  }
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
  return mesh;
}

}  // namespace pyramoe::train
