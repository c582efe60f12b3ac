#include "train/auto_stop.h"

#include <cmath>
#include <numeric>

namespace pyramoe::train {

AutoStop::AutoStop(const DistillConfig& config)
    : active_(config.schedule == "auto" && !config.teacher.empty()),
      every_(config.check_every),
      window_(config.window),
      threshold_(config.threshold) {}

bool AutoStop::due(int64_t step) const {
  return active_ && stopped_ < 0 && step > checked_ && step % every_ == 0;
}

void AutoStop::add(int64_t step, double cosine) {
  checked_ = step;
  if (!std::isfinite(cosine)) return;
  cosines_.push_back(cosine);
  const auto count = static_cast<int64_t>(cosines_.size());
  if (count > window_) cosines_.erase(cosines_.begin());
  if (count < window_) return;
  const double sum = std::accumulate(cosines_.begin(), cosines_.end(), 0.0);
  if (sum / static_cast<double>(window_) < threshold_) stopped_ = step;
}

Json AutoStop::state() const {
  return {{"checked", checked_}, {"stopped", stopped_}, {"cosines", cosines_}};
}

void AutoStop::put_state(const Json& state, const std::string& where) {
  try {
    checked_ = state.at("checked").get<int64_t>();
    stopped_ = state.at("stopped").get<int64_t>();
    cosines_ = state.at("cosines").get<std::vector<double>>();
  } catch (const Json::exception&) {
    fail(Exit::checkpoint, where, ": auto_stop lacks checked, stopped or cosines; a run with ",
         "distill.schedule = \"auto\" goes on from its own checkpoints only");
  }
}

}  // namespace pyramoe::train
