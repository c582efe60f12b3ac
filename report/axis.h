// Where numbers fall on a chart's axis, and the round numbers that it labels.
#pragma once

#include <string>
#include <vector>

namespace pyramoe::report {

struct Tick {
  double value = 0;
  std::string label;
};

class Axis {
 public:
  // Values [low, high] over pixels [begin, end] (end < begin for an axis that points up).
  // A logarithmic one needs 0 < low.
  Axis(double low, double high, double begin, double end, bool logarithmic = false);

  double at(double value) const;
  // Values inside that are round in units of `unit`, about `count` of them, with their labels.
  std::vector<Tick> ticks(int count, double unit = 1) const;
  double low() const { return low_; }
  double high() const { return high_; }
  double begin() const { return begin_; }
  double end() const { return end_; }

 private:
  double low_, high_, begin_, end_;
  bool logarithmic_;
};

// 1, 1e3, 1e6 or 1e9 for values up to `high`, and its name: "", "thousands", "millions",
// "billions".
struct Unit {
  double value;
  std::string name;
};
Unit unit_for(double high);

}  // namespace pyramoe::report
