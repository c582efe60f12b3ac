#include "lab/experiment_figure.h"

#include <fmt/format.h>

#include <algorithm>
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

bool leaves(const report::Axis& axis, double low, double high) {
  return low < axis.low() || high > axis.high();
}

void draw_whisker(report::Svg& svg, const report::Axis& axis, double across, double low,
                  double high, bool upright, const report::Stroke& stroke) {
  const auto line = [&](double along, double side, double along_end, double side_end) {
    if (upright) {
      svg.line(across + side, along, across + side_end, along_end, stroke);
    } else {
      svg.line(along, across + side, along_end, across + side_end, stroke);
    }
  };
  const double begin = axis.at(std::max(low, axis.low())),
               end = axis.at(std::min(high, axis.high()));
  line(begin, 0, end, 0);
  const auto draw_end = [&](double at, bool inside, double inwards) {
    if (inside) return line(at, -5, at, 5);
    line(at, 0, at + inwards, -4);
    line(at, 0, at + inwards, 4);
  };
  const double arrow = end > begin ? 7 : -7;
  draw_end(begin, low >= axis.low(), arrow);
  draw_end(end, high <= axis.high(), -arrow);
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
