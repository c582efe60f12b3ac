// What a person sees while a run trains: a line every log_every steps and, on a terminal, a bar
// that is redrawn in place. Plain lines when the output is a file.
#pragma once

#include <cstdint>
#include <string>

#include "train/metrics.h"

namespace pyramoe::train {

// 1234567 -> "1,234,567"; 83 -> "1m23s".
std::string with_commas(int64_t n);
std::string duration(double seconds);
// A bar and the (ASCII) text after it, never wider than the terminal: an older line that wrapped
// could not be drawn over. The bar gives way first.
std::string bar_line(double share, const std::string& text, int columns);

class Progress {
 public:
  Progress(int64_t first_step, int64_t steps, int64_t log_every);
  ~Progress();
  void step(const StepResult& result);
  void eval(const EvalResult& result, int64_t step);
  // A line of its own, above the bar.
  void say(const std::string& line);

 private:
  void clear_bar();
  double eta(const StepResult& result) const;

  int64_t first_step_, steps_, log_every_;
  bool terminal_, bar_shown_ = false;
  double seconds_ = 0, last_drawn_ = 0;
  int64_t done_ = 0;
};

}  // namespace pyramoe::train
