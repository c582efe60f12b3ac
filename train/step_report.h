// What a step tells about itself: losses and expert loads of its micro-batches, added up on the
// device and read by the host once, at the step's end.
#pragma once

#include <vector>

#include "dist/pairwise_sum.h"
#include "dist/process_group.h"
#include "nn/context.h"
#include "train/metrics.h"

namespace pyramoe::train {

// Losses of one micro-batch, each one element on the device.
struct MicroLosses {
  Tensor cross_entropy, distill;  // distill undefined when it does not count
  Tensors balance, z;             // one per layer of experts
};

class StepReport {
 public:
  explicit StepReport(Device device) : device_(device) {}

  void start();  // a new step
  // Only kernels: may be captured, once a step has run outside a capture.
  void add(const MicroLosses& losses, const std::vector<nn::LayerStat>& stats);
  // For sums that no layout changes, after each micro-batch; then, after the last, their sum.
  void end_pass();
  void join_passes() { passes_.take(totals_); }
  // Adds up what data ranks have each found.
  void sum_over(const dist::ProcessGroup& data);
  // The step's cross-entropy so far, not divided by the number of micro-batches.   (1) f64
  Tensor loss() const { return totals_.rows(0, 1); }
  // Waits for the device; result.live is known already. A loss counts `share` for each micro-batch.
  void read(double share, int64_t micro_batches, StepResult& result);

 private:
  struct Layer {
    int64_t experts, choices;  // of one micro-batch
  };
  void lay_out(const MicroLosses& losses, const std::vector<nn::LayerStat>& stats);

  Device device_;
  Tensor totals_, host_;  // f64: cross-entropy, distill, balance, z, then loads and kept by layer
  Tensor nothing_;        // stands in for a distill loss that does not count
  dist::PairwiseSum passes_;
  int64_t balance_ = 0, z_ = 0;
  std::vector<Layer> layers_;
};

}  // namespace pyramoe::train
