#include "lab/experiment_figure.h"

#include <fmt/format.h>

#include <cmath>

#include "core/error.h"

namespace pyramoe::lab {

std::vector<ArmRuns> arms_at(const Experiment& experiment, const std::string& scale) {
  std::vector<ArmRuns> out;
  const std::vector<Arm>& arms = experiment.definition.arms;
  for (size_t i = 0; i < arms.size(); ++i) {  // a look belongs to an arm, at every scale
    ArmRuns arm{label_of(experiment, scale, arms[i].name), report::look_of(i), {}};
    for (const RunResult& run : experiment.results.runs) {
      if (run.scale == scale && run.arm == arms[i].name) arm.runs.push_back(&run);
    }
    if (!arm.runs.empty()) out.push_back(std::move(arm));
  }
  return out;
}

std::vector<double> numbers_of(const ArmRuns& arm, const std::string& metric) {
  std::vector<double> out;
  for (const RunResult* run : arm.runs) {
    const double x = metric_of(*run, metric);
    if (std::isfinite(x)) out.push_back(x);
  }
  return out;
}

const ArmRuns& first_with(const std::vector<ArmRuns>& arms, const std::string& metric) {
  for (const ArmRuns& arm : arms) {
    if (!numbers_of(arm, metric).empty()) return arm;
  }
  return arms.front();
}

std::vector<double> gaps_to(const ArmRuns& first, const ArmRuns& arm, const std::string& metric) {
  std::vector<double> out;
  for (const RunResult* run : arm.runs) {
    for (const RunResult* base : first.runs) {
      const double gap = metric_of(*run, metric) - metric_of(*base, metric);
      if (base->seed == run->seed && std::isfinite(gap)) out.push_back(gap);
    }
  }
  return out;
}

std::string draw_figure(const Experiment& experiment, const std::string& scale) {
  const std::vector<ArmRuns> arms = arms_at(experiment, scale);
  PM_CHECK(!arms.empty(), "draw_figure: ", experiment.definition.name, " has no results at scale ",
           scale);
  const std::string title = fmt::format("{} (scale: {})", experiment.definition.title, scale);
  const std::string& figure = experiment.definition.figure;
  if (figure == "loss_curves") return draw_loss_curves(arms, title);
  if (figure == "loss_by_parameters") return draw_loss_by_parameters(arms, title);
  if (figure == "bars") return draw_bars(arms, "loss", title);
  PM_CHECK(figure.rfind("bars:", 0) == 0, "draw_figure: no figure is called ", figure);
  return draw_bars(arms, figure.substr(5), title);
}

}  // namespace pyramoe::lab
