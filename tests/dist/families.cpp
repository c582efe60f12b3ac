#include "tests/dist/families.h"

#include <cmath>

#include "nn/gather.h"

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

Trace trace_of(train::RunConfig config, const dist::ProcessGroup& world, int64_t steps) {
  const dist::Mesh mesh = train::make_mesh(world, config);
  train::Trainer trainer(config, kCpu, &mesh);
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

}  // namespace pyramoe::test
