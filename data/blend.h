// Which domain a sample comes from, and how many of that domain came before it.
//
// One idea: the weights become whole numbers of samples in a period (exactly, when the weights are
// decimal fractions), and one period is laid out by Tijdeman's rule for the chairman assignment
// problem (Discrete Mathematics 32, 1980): after any number of samples every domain has had its
// share to within less than one sample. The period repeats, so sample g needs no history.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pyramoe::data {

class Blend {
 public:
  struct Pick {
    int32_t domain;
    int64_t ordinal;  // samples of this domain before this one
  };

  // Weights > 0, any scale. Throws Error(config) otherwise.
  explicit Blend(const std::vector<double>& weights);

  Pick at(int64_t sample) const;
  int64_t period() const { return static_cast<int64_t>(slots_.size()); }
  int64_t share(int64_t domain) const { return shares_.at(static_cast<size_t>(domain)); }

 private:
  struct Slot {
    int32_t domain;
    int32_t ordinal;  // within the period
  };
  void lay_out();

  std::vector<int64_t> shares_;  // samples of each domain in a period
  std::vector<Slot> slots_;
};

}  // namespace pyramoe::data
