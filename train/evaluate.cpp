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

// The sum of the losses of each window, in f64 and in order.
std::vector<double> loss_sums(nn::Gpt& model, const data::Batch& batch, nn::Context& context,
                              Device device) {
  const Tensor tokens = Tensor::from(batch.tokens, {batch.rows, batch.context}, device);
  const Tensor targets = Tensor::from(batch.targets, {batch.rows * batch.context}, device);
  const Tensor logits = model.forward(tokens, context).logits.value();
  const DType wide = logits.dtype() == DType::f64 ? DType::f64 : DType::f32;
  Tensor loss({logits.dim(0)}, wide, device), lse({logits.dim(0)}, wide, device);
  kernels::cross_entropy_forward(logits, targets, loss, lse);
  std::vector<double> sums(static_cast<size_t>(batch.rows), 0);
  const std::vector<double> all = loss.to_vector();
  for (size_t i = 0; i < all.size(); ++i) sums[i / static_cast<size_t>(batch.context)] += all[i];
  return sums;
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

namespace {

// Adds up what the ranks found in a domain; losses by window, in order of the windows.
void add_ranks(const dist::ProcessGroup& data, std::vector<double>& sums, DomainResult& domain) {
  if (data.size() == 1) return;
  Tensor all = Tensor::from(sums, {static_cast<int64_t>(sums.size())});
  data.all_reduce(all);  // every window is 0 on all ranks but one
  sums.assign(all.data<double>(), all.data<double>() + all.numel());
  for (std::vector<int64_t>& load : domain.load) {
    Tensor counts = Tensor::from(load, {static_cast<int64_t>(load.size())});
    data.all_reduce(counts);
    load.assign(counts.data<int64_t>(), counts.data<int64_t>() + counts.numel());
  }
}

}  // namespace

EvalResult evaluate(nn::Gpt& model, const data::ValidationSet& set,
                    const std::vector<std::string>& domains, Device device,
                    const dist::ProcessGroup& data, const std::function<bool()>& stop) {
  const NoGrad no_grad;
  const auto stopped = [&] { return stop ? stop() : stop_requested(); };
  const int64_t rows = std::max<int64_t>(1, kTokensAtOnce / model.options().context);
  EvalResult result;
  double total = 0;
  for (size_t d = 0; d < domains.size(); ++d) {
    const auto id = static_cast<int64_t>(d);
    const int64_t begin = set.begin(id), end = set.end(id);
    if (begin == end) continue;  // nothing to validate on is not a loss of zero
    DomainResult& domain = result.domains[domains[d]];
    std::vector<double> sums(static_cast<size_t>(end - begin), 0);
    for (int64_t first = begin; first < end && !stopped(); first += rows * data.size()) {
      // A rank without windows goes through the motions with the last one, and does not count it.
      const int64_t mine = first + data.rank() * rows;
      const int64_t count = std::clamp<int64_t>(end - mine, 0, rows);
      const data::Batch batch = count > 0 ? set.windows(mine, count) : set.windows(end - 1, 1);
      nn::Context context;
      const std::vector<double> found = loss_sums(model, batch, context, device);
      domain.tokens += (std::min(end, first + rows * data.size()) - first) * batch.context;
      if (domain.load.empty()) {
        for (const nn::LayerStat& stat : context.stats) {
          domain.load.emplace_back(static_cast<size_t>(stat.load.numel()), 0);
        }
      }
      if (count > 0) {
        std::copy(found.begin(), found.end(), sums.begin() + (mine - begin));
        add_load(context.stats, domain);
      }
      result.moe_layers.clear();
      for (const nn::LayerStat& stat : context.stats) result.moe_layers.push_back(stat.layer);
    }
    add_ranks(data, sums, domain);
    double sum = 0;
    for (const double x : sums) sum += x;
    domain.loss = domain.tokens > 0 ? sum / static_cast<double>(domain.tokens) : 0;
    total += sum;
    result.tokens += domain.tokens;
  }
  result.loss = result.tokens > 0 ? total / static_cast<double>(result.tokens) : 0;
  return result;
}

std::string eval_json(const EvalResult& result, int64_t step, int64_t tokens, double dropped,
                      double imbalance, const std::map<std::string, double>& more) {
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
  for (const auto& [name, value] : more) out[name] = value;
  return out.dump(1) + "\n";
}

}  // namespace pyramoe::train
