// The figure of an experiment at a scale, as its definition asks: loss_curves, loss_by_parameters,
// bars:METRIC. Made to be read on paper and in grey: arms differ by colour, dashes and marker, are
// labelled where they are drawn, and show their seeds (thin) beside the mean (bold).
#pragma once

#include <string>
#include <vector>

#include "lab/experiment_table.h"
#include "report/chart.h"
#include "report/picture.h"

namespace pyramoe::lab {

// The text of an SVG file. At least one arm must have results at the scale.
std::string draw_figure(const Experiment& experiment, const std::string& scale);

// ---- The pages' parts

// One arm's results at a scale.
struct ArmRuns {
  std::string label;
  report::Look look;
  std::vector<const RunResult*> runs;  // by seed
};
std::vector<ArmRuns> arms_at(const Experiment& experiment, const std::string& scale);

std::string draw_loss_curves(const std::vector<ArmRuns>& arms, const std::string& title);
std::string draw_loss_by_parameters(const std::vector<ArmRuns>& arms, const std::string& title);
std::string draw_bars(const std::vector<ArmRuns>& arms, const std::string& metric,
                      const std::string& title);

// Whether an interval goes beyond the axis it is drawn along.
bool leaves(const report::Axis& axis, double low, double high);
// An interval along an axis, at the pixel `across` of the other one. An end beyond the axis has an
// arrow in place of its bar: the interval goes on.
//   upright  the axis is the vertical one
void draw_whisker(report::Svg& svg, const report::Axis& axis, double across, double low,
                  double high, bool upright, const report::Stroke& stroke);

// An arm's numbers, those of seeds that have one.
std::vector<double> numbers_of(const ArmRuns& arm, const std::string& metric);
// The first arm that has numbers; the first of all where none has.
const ArmRuns& first_with(const std::vector<ArmRuns>& arms, const std::string& metric);
// The arm's number minus that of another, for every seed that both have: what claims judge. Seeds
// move all arms together, so these are far closer to each other than the numbers themselves.
std::vector<double> gaps_to(const ArmRuns& first, const ArmRuns& arm, const std::string& metric);

}  // namespace pyramoe::lab
