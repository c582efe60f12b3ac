#include "tests/dist/families.h"

#include <cmath>
#include <filesystem>

#include "nn/gather.h"
#include "tests/dist/world.h"

namespace pyramoe::test {
namespace {

std::string compare(const std::map<std::string, Tensor>& got,
                    const std::map<std::string, Tensor>& want, double tolerance) {
  std::string worst_name;
  double worst = tolerance;
  if (got.size() != want.size()) return cat(got.size(), " tensors, expected ", want.size());
  for (const auto& [name, expected] : want) {
    const auto found = got.find(name);
    if (found == got.end()) return name + " is missing";
    if (found->second.shape() != expected.shape()) return name + " has another shape";
    const std::vector<double> a = found->second.to_vector(), b = expected.to_vector();
    for (size_t i = 0; i < a.size(); ++i) {
      const double error = std::abs(a[i] - b[i]) / (1 + std::abs(b[i]));
      if (!(error <= worst)) {
        worst = std::isnan(error) ? 1e300 : error;
        worst_name = name;
      }
    }
  }
  return worst_name.empty() ? "" : cat(worst_name, " differs by ", worst);
}

}  // namespace

SharedFolder::SharedFolder()
    : path_((std::filesystem::temp_directory_path() /
             cat("pyramoe_shared_", world().size(), "_", ::getppid()))
                .string()) {
  if (world().rank() == 0) std::filesystem::remove_all(path_);
  world().barrier();
}

SharedFolder::~SharedFolder() {
  world().barrier();
  if (world().rank() == 0) std::filesystem::remove_all(path_);
}

Bits whole_state(train::Trainer& trainer) {
  Bits bits;
  for (const auto& parts : {nn::parts_of(trainer.model()), trainer.optimizer().state()}) {
    for (const nn::NamedTensor& t : nn::gather_whole(parts, trainer.world())) {
      bits[t.name] = bits_of(t.value);
    }
  }
  return bits;
}

Teacher::Teacher() {
  if (world().rank() == 0) {
    train::RunConfig config = family_config("pr_moe", "");
    config.model.gate = "softmax";
    config.dir = path();
    config.train.seed = 7;
    train::Trainer trainer(config, kCpu);
    trainer.step();
    trainer.save();
  }
  world().barrier();
}

namespace {

void nudge_weights(nn::Gpt& model, double nudge) {
  uint32_t number = 0;
  for (const nn::Parameter* p : model.parameters()) {
    const RngKey key{5, RngPurpose::test, number++, 0};
    double* x = p->var.value().data<double>();
    for (int64_t i = 0; i < p->var.value().numel(); ++i) {
      const bool up = random_u32(key, static_cast<uint64_t>(i)) % 2 == 0;
      x[i] *= up ? 1 + nudge : 1 - nudge;
    }
  }
}

double largest(const Tensor& x) {
  double most = 0;
  for (const double value : x.to_vector()) most = std::max(most, std::abs(value));
  return most;
}

double largest_difference(const Tensor& x, const Tensor& y) {
  const std::vector<double> a = x.to_vector(), b = y.to_vector();
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return a.size() == b.size() && !std::isnan(most) ? most : 1e300;
}

}  // namespace

RoundingBound rounding_bound(const train::RunConfig& config, const Trace& exact, DType dtype) {
  constexpr double kNudge = 0x1p-36;  // small enough to be linear, large beside f64's rounding
  train::RunConfig wide = config;
  wide.train.dtype = "f64";
  const Trace moved = trace_of(wide, dist::ProcessGroup(), 1, kNudge);
  const moe::ModelConfig& m = config.model;
  const int64_t longest =
      std::max({config.train.batch * m.context, m.vocab, m.dense_hidden(), m.moe_hidden(), m.dim});
  const double u = dtype == DType::f64 ? 0x1p-53 : 0x1p-24;
  double gradient = 0;
  for (const auto& [name, value] : exact.first) {
    if (name.starts_with("grad.")) gradient = std::max(gradient, largest(value));
  }
  RoundingBound bound;
  for (const auto& [name, value] : exact.first) {
    const double slope = largest_difference(moved.first.at(name), value) / kNudge;
    const double terms = name.starts_with("grad.") ? gradient : largest(value);
    bound.by_name[name] = 2 * static_cast<double>(longest) * u * (slope + terms);
  }
  return bound;
}

std::string RoundingBound::check(const std::map<std::string, Tensor>& got,
                                 const std::map<std::string, Tensor>& want) {
  std::string wrong;
  for (const auto& [name, expected] : want) {
    const auto found = got.find(name);
    if (found == got.end()) return name + " is missing";
    const double error = largest_difference(found->second, expected), most = by_name.at(name);
    if (most > 0) worst = std::max(worst, error / most);
    if (wrong.empty() && !(error <= most)) wrong = cat(name, " differs by ", error, " of ", most);
  }
  return wrong;
}

Trace trace_of(train::RunConfig config, const dist::ProcessGroup& world, int64_t steps,
               double nudge) {
  const dist::Mesh mesh = train::make_mesh(world, config);
  train::Trainer trainer(config, kCpu, &mesh);
  if (nudge > 0) nudge_weights(trainer.model(), nudge);
  Trace trace;
  const auto put = [](std::map<std::string, Tensor>& to, const std::string& name, double value) {
    to[name] = Tensor::scalar(value, DType::f64);
  };
  for (int64_t step = 0; step < steps; ++step) {
    const train::StepResult result = trainer.step();
    if (step == 0) {
      put(trace.first, "loss", result.loss);
      put(trace.first, "aux", result.balance_loss);
      put(trace.first, "z", result.z_loss);
      put(trace.first, "kd", result.distill_loss);
      put(trace.first, "norm", result.grad_norm);
      put(trace.first, "dropped", result.dropped);
      for (size_t layer = 0; layer < result.load.size(); ++layer) {
        trace.first[cat("load.", layer)] =
            Tensor::from(result.load[layer], {static_cast<int64_t>(result.load[layer].size())});
      }
      trainer.buffers().gather_grads();
      std::vector<nn::NamedTensor> grads;
      for (const train::FlatGroup& group : trainer.buffers().groups()) {
        for (const train::FlatSlot& slot : group.slots) {
          grads.push_back({"grad." + slot.parameter->name, group.view(group.grad, slot).clone(),
                           slot.parameter->place.box});
        }
      }
      for (const nn::NamedTensor& whole : nn::gather_whole(grads, trainer.world())) {
        trace.first[whole.name] = whole.value.clone();
      }
    }
    put(trace.last, "loss", result.loss);
  }
  for (const nn::NamedTensor& p :
       nn::gather_whole(nn::parts_of(trainer.model()), trainer.world())) {
    trace.last[p.name] = p.value.clone();
  }
  return trace;
}

std::string difference(const Trace& got, const Trace& want, double first, double last) {
  const std::string begin = compare(got.first, want.first, first);
  if (!begin.empty()) return "first step: " + begin;
  const std::string end = compare(got.last, want.last, last);
  return end.empty() ? "" : "at the end: " + end;
}

std::string bit_difference(const Trace& got, const Trace& want) {
  for (const auto& [a, b, when] : {std::tuple{&got.first, &want.first, "first step: "},
                                   std::tuple{&got.last, &want.last, "at the end: "}}) {
    if (a->size() != b->size()) return cat(when, a->size(), " tensors, expected ", b->size());
    for (const auto& [name, expected] : *b) {
      const auto found = a->find(name);
      if (found == a->end()) return cat(when, name, " is missing");
      if (bits_of(found->second) != bits_of(expected)) return cat(when, name, " differs");
    }
  }
  return "";
}

}  // namespace pyramoe::test
