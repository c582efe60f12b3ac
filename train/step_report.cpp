#include "train/step_report.h"

#include <algorithm>
#include <numeric>

#include "core/kernels/step.h"

namespace pyramoe::train {

void StepReport::start() {
  passes_.clear();
  if (totals_.defined()) totals_.zero();
}

void StepReport::end_pass() {
  passes_.add(totals_);
  totals_.zero();
}

void StepReport::lay_out(const MicroLosses& losses, const std::vector<nn::LayerStat>& stats) {
  balance_ = static_cast<int64_t>(losses.balance.size());
  z_ = static_cast<int64_t>(losses.z.size());
  int64_t size = 2 + balance_ + z_;
  layers_.clear();  // what an attempt that ran out of memory has left
  for (const nn::LayerStat& stat : stats) {
    layers_.push_back({stat.load.numel(), stat.choices});
    size += stat.load.numel() + 1;
  }
  nothing_ = Tensor::zeros({1}, DType::f64, device_);
  const Tensor totals = Tensor::zeros({size}, DType::f64, device_);
  host_ = device_ == kCpu ? totals : Tensor({size}, DType::f64);
  totals_ = totals;  // last: it says that the layout stands
}

void StepReport::add(const MicroLosses& losses, const std::vector<nn::LayerStat>& stats) {
  if (!totals_.defined()) lay_out(losses, stats);
  Tensors terms{losses.cross_entropy, losses.distill.defined() ? losses.distill : nothing_};
  terms.insert(terms.end(), losses.balance.begin(), losses.balance.end());
  terms.insert(terms.end(), losses.z.begin(), losses.z.end());
  for (const nn::LayerStat& stat : stats) {
    terms.push_back(stat.load);
    terms.push_back(stat.kept);
  }
  kernels::add_to_totals(terms, totals_);
}

void StepReport::sum_over(const dist::ProcessGroup& data) { data.all_reduce(totals_); }

void StepReport::read(double share, int64_t micro_batches, StepResult& result) {
  if (!host_.same_memory(totals_)) host_.copy_from(totals_);
  const double* next = host_.data<double>();
  const auto sum = [&](int64_t count) {
    const double total = std::accumulate(next, next + count, 0.0);
    next += count;
    return share * total;
  };
  result.loss = sum(1);
  result.distill_loss = sum(1);
  result.balance_loss = sum(balance_);
  result.z_loss = sum(z_);
  if (layers_.empty()) return;
  std::vector<int64_t> live;  // experts that may have a load; empty: all
  for (const int64_t experts : result.live) {
    if (experts > 0) live.push_back(experts);
  }
  double imbalance = 0, kept = 0, choices = 0;
  for (const Layer& layer : layers_) {
    std::vector<int64_t> load(static_cast<size_t>(layer.experts));
    for (int64_t& count : load) count = static_cast<int64_t>(*next++);
    result.kept.push_back(static_cast<int64_t>(*next++));
    kept += static_cast<double>(result.kept.back());
    const auto total = static_cast<double>(layer.choices * micro_batches);
    const auto most = static_cast<double>(*std::max_element(load.begin(), load.end()));
    const int64_t experts = live.empty() ? layer.experts : live.at(result.load.size());
    if (total > 0) imbalance += most * static_cast<double>(experts) / total;
    choices += total;
    result.load.push_back(std::move(load));
  }
  result.imbalance = imbalance / static_cast<double>(layers_.size());
  result.dropped = choices > 0 ? (choices - kept) / choices : 0;
}

}  // namespace pyramoe::train
