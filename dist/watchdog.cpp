#include "dist/watchdog.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "core/error.h"
#include "dist/fabric.h"
#include "dist/mpi.h"

namespace pyramoe::dist {

Watchdog::Watchdog(FlightRecord& record, int rank, double deadline)
    : record_(record), rank_(rank), deadline_(deadline), thread_([this] { run(); }) {
  record_.set_alive(deadline_ / 2);  // a rank may be stopped before the first look
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Watchdog::run() {
  const auto look = std::chrono::duration<double>(std::clamp(deadline_ / 20, 0.05, 1.0));
  // Turns are counted, not read from the clock: a rank that was stopped and goes on, or a clock
  // that is set, must not look like a stall of the others.
  double waited = 0;
  int64_t last = 0;
  double last_since = 0, looked = Fabric::now();
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, look, [this] { return stop_; })) {
    const double now = Fabric::now();
    if (now - looked > deadline_ / 2) record_.set_paused(now - looked);
    record_.set_alive(deadline_ / 2);
    looked = now;
    double since = 0;
    const int64_t number = record_.waiting(since);
    const bool same = number != 0 && number == last && since == last_since;
    waited = same ? waited + look.count() : 0;
    last = number;
    last_since = since;
    if (waited < deadline_) continue;
    const std::string what = describe(record_.entry(number));
    std::fprintf(stderr,
                 "pyramoe: rank %d has waited %.0f s in %s: another rank is lost or stalled "
                 "(parallel.deadline = %g s). Ending the job; `pyramoe inspect` of the run folder "
                 "shows where every rank was\n",
                 rank_, waited, what.c_str(), deadline_);
    std::fflush(stderr);
    mpi_abort(static_cast<int>(Exit::peer));
  }
}

}  // namespace pyramoe::dist
