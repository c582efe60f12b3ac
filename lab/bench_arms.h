// Times the arms that ask for it, alone on the machine and in turns, so that whatever the machine
// does beside hits all of them alike.
#pragma once

#include <string>

#include "lab/queue.h"
#include "lab/screen.h"

namespace pyramoe::lab {

struct BenchOptions {
  std::string program, device;
  int threads = 1;
};

// Adds bench.* to the results of units that want it: at least three timings an arm, which its seeds
// share; a seed gets the median of its own. Returns the status of the first that failed, or 0;
// ends early when a signal asks to.
int bench_arms(Queue& queue, Screen& screen, const BenchOptions& options);

}  // namespace pyramoe::lab
