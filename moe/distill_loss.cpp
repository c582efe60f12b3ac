#include "moe/distill_loss.h"

#include <cmath>
#include <numbers>

#include "core/error.h"

namespace pyramoe::moe {

double distill_weight(const std::string& schedule, double stop_at, double progress) {
  if (schedule == "full" || schedule == "auto") return 1.0;
  if (progress >= stop_at) return 0.0;
  const double share = progress / stop_at;
  if (schedule == "staged") return 1.0;
  if (schedule == "linear") return 1.0 - share;
  if (schedule == "cosine") return 0.5 * (1.0 + std::cos(std::numbers::pi * share));
  fail(Exit::config, "distill.schedule = \"", schedule,
       "\": expected full, staged, linear, cosine or auto");
}

}  // namespace pyramoe::moe
