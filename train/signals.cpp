#include "train/signals.h"

#include <csignal>
#include <initializer_list>

namespace pyramoe::train {
namespace {

volatile std::sig_atomic_t requested = 0;
volatile int32_t* volatile marked = nullptr;

void on_signal(int signal) {
  if (signal == SIGINT && requested != 0) std::signal(SIGINT, SIG_DFL);
  requested = 1;
  if (marked) *marked = 1;
}

}  // namespace

StopSignals::StopSignals() {
  requested = 0;
  for (const int signal : {SIGTERM, SIGUSR1, SIGINT}) std::signal(signal, on_signal);
}

StopSignals::~StopSignals() {
  marked = nullptr;
  // A second signal while the program ends must not turn "saved" into "killed".
  if (stop_requested()) return;
  for (const int signal : {SIGTERM, SIGUSR1, SIGINT}) std::signal(signal, SIG_DFL);
}

void mark_signals(volatile int32_t* mark) { marked = mark; }

bool stop_requested() { return requested != 0; }

}  // namespace pyramoe::train
