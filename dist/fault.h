// For tests: one rank fails at a chosen collective. PYRAMOE_RANK_FAULT="rank,phase,n,kind" makes
// rank `rank` end at the n-th collective (from 0) that it begins in phase `phase` (init, forward,
// backward, reduce, save, eval): kind is kill (SIGKILL), stop (SIGSTOP) or exit (status 9).
#pragma once

#include <string>

namespace pyramoe::dist {

class Fault {
 public:
  // From the environment; a rank that is not meant never fails.
  static Fault from_environment(int rank);
  // At the beginning of every collective.
  void at(const std::string& phase);

 private:
  bool armed_ = false;
  std::string phase_, kind_;
  int left_ = 0;
};

}  // namespace pyramoe::dist
