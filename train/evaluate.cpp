#include "train/evaluate.h"

#include <algorithm>

#include "core/json.h"
#include "core/kernels/loss.h"
#include "train/signals.h"

namespace pyramoe::train {
namespace {

// About this many tokens go through the model at once: enough to fill its products, few enough for
// the logits to stay small.
constexpr int64_t kTokensAtOnce = 2048;

// Sum of the losses of all tokens of a batch, in f64 and in order.
double loss_sum(nn::Gpt& model, const data::Batch& batch, nn::Context& context, Device device) {
  const Tensor tokens = Tensor::from(batch.tokens, {batch.rows, batch.context}, device);
  const Tensor targets = Tensor::from(batch.targets, {batch.rows * batch.context}, device);
  const Tensor logits = model.forward(tokens, context).logits.value();
  const DType wide = logits.dtype() == DType::f64 ? DType::f64 : DType::f32;
  Tensor loss({logits.dim(0)}, wide, device), lse({logits.dim(0)}, wide, device);
  kernels::cross_entropy_forward(logits, targets, loss, lse);
  double sum = 0;
  for (const double x : loss.to_vector()) sum += x;
  return sum;
}

void add_load(const std::vector<nn::LayerStat>& stats, DomainResult& domain) {
  domain.load.resize(stats.size());
  for (size_t i = 0; i < stats.size(); ++i) {
    const std::vector<double> counts = stats[i].load.to_vector();
    domain.load[i].resize(counts.size());
    for (size_t e = 0; e < counts.size(); ++e) {
      domain.load[i][e] += static_cast<int64_t>(counts[e]);
    }
  }
}

}  // namespace

EvalResult evaluate(nn::Gpt& model, const data::ValidationSet& set,
                    const std::vector<std::string>& domains, Device device) {
  const NoGrad no_grad;
  const int64_t rows = std::max<int64_t>(1, kTokensAtOnce / model.options().context);
  EvalResult result;
  double total = 0;
  for (size_t d = 0; d < domains.size(); ++d) {
    const auto id = static_cast<int64_t>(d);
    DomainResult& domain = result.domains[domains[d]];
    double sum = 0;
    for (int64_t first = set.begin(id); first < set.end(id) && !stop_requested(); first += rows) {
      const data::Batch batch = set.windows(first, std::min(rows, set.end(id) - first));
      nn::Context context;
      sum += loss_sum(model, batch, context, device);
      domain.tokens += batch.rows * batch.context;
      add_load(context.stats, domain);
      result.moe_layers.clear();
      for (const nn::LayerStat& stat : context.stats) result.moe_layers.push_back(stat.layer);
    }
    domain.loss = domain.tokens > 0 ? sum / static_cast<double>(domain.tokens) : 0;
    total += sum;
    result.tokens += domain.tokens;
  }
  result.loss = result.tokens > 0 ? total / static_cast<double>(result.tokens) : 0;
  return result;
}

std::string eval_json(const EvalResult& result, int64_t step, int64_t tokens, double dropped,
                      double imbalance) {
  Json out;
  out["step"] = step;
  out["tokens"] = tokens;
  out["loss"] = result.loss;
  out["val_tokens"] = result.tokens;
  out["domains"] = Json::object();
  for (const auto& [name, domain] : result.domains) {
    out["domains"][name] = {
        {"loss", domain.loss}, {"tokens", domain.tokens}, {"load", domain.load}};
  }
  out["moe_layers"] = result.moe_layers;
  out["dropped"] = dropped;
  out["imbalance"] = imbalance;
  return out.dump(1) + "\n";
}

}  // namespace pyramoe::train
