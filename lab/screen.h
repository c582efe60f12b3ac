// What people see while experiments run: a line for each end of a run, and on a terminal one line
// below that says what runs and how long it may take.
#pragma once

#include <chrono>
#include <string>

#include "lab/queue.h"

namespace pyramoe::lab {

// 45 s, 1 min 30 s, 2 h 05 min
std::string time_text(double seconds);

class Screen {
 public:
  explicit Screen(const Queue& queue, int jobs);

  void say(const std::string& line);
  // A stage of a unit ended well after `seconds`.
  void finished(const Unit& unit, Stage stage, const RunResult& result, double seconds);
  void failed(const Unit& unit, int status, const std::string& why);
  void status();  // redraws the lowest line, at most a few times a second
  void summary(double seconds);
  // Of a place in a second, as trainings that ended here did it; NaN before the first.
  double flops_per_second() const { return flops_done_ / seconds_done_; }

 private:
  double seconds_left() const;

  const Queue& queue_;
  int jobs_;
  bool terminal_;
  size_t name_width_ = 0;
  double flops_done_ = 0, seconds_done_ = 0;  // of trainings that ended here
  std::chrono::steady_clock::time_point last_{};
};

}  // namespace pyramoe::lab
