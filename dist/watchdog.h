// A thread that looks at how long this rank has been waiting for others. Beyond the deadline it
// says in which collective and ends the job with status 6, so that no job hangs for ever.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "dist/flight_record.h"

namespace pyramoe::dist {

class Watchdog {
 public:
  // deadline in seconds, > 0. The record must live as long.
  Watchdog(FlightRecord& record, int rank, double deadline);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  void run();

  FlightRecord& record_;
  int rank_;
  double deadline_;
  bool stop_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::thread thread_;
};

}  // namespace pyramoe::dist
