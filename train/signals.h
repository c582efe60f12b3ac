// SIGTERM and SIGUSR1 ask a run to save and end (a scheduler is about to take the machine away);
// so does the first SIGINT, while the second ends it at once.
#pragma once

#include <cstdint>

namespace pyramoe::train {

// Installs the handlers for the lifetime of the object.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
};

// True once a signal came. Polled after every micro-batch, in evaluation too.
bool stop_requested();
// `mark` becomes 1 with the first signal; null for none. The place must live as long as
// StopSignals.
void mark_signals(volatile int32_t* mark);

}  // namespace pyramoe::train
