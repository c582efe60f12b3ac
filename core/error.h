// One exception type for the whole program, and the check that throws it.
//
// An Error says what was expected, what came and what to do, and carries the exit code that the
// program ends with when nobody catches it. Only cli/main.cpp turns an Error into an exit.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace pyramoe {

// Exit codes are part of the interface: scripts and job schedulers act on them.
enum class Exit : int {
  done = 0,
  bug = 1,         // a broken promise inside the program
  config = 2,      // configuration or usage
  data = 3,        // token files, texts, tokenizers
  checkpoint = 4,  // weights or trainer state: missing, damaged, not fitting; a save that failed
  non_finite = 5,  // the loss or a gradient stopped being a number
  peer = 6,        // another rank was lost or stalled
  memory = 7,      // out of host or device memory
  preempted = 75,  // saved after SIGTERM; run again to go on
};

class Error : public std::runtime_error {
 public:
  Error(Exit code, const std::string& message) : std::runtime_error(message), code_(code) {}
  Exit code() const { return code_; }

 private:
  Exit code_;
};

// Joins its arguments as an ostream would print them.
template <class... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class... Parts>
[[noreturn]] void fail(Exit code, const Parts&... parts) {
  throw Error(code, cat(parts...));
}

}  // namespace pyramoe

// Always on. The message names the function, what was expected and what came:
//   PM_CHECK(x.dim(1) == d, "linear: x has D = ", x.dim(1), ", weight expects ", d);
#define PM_CHECK(condition, ...)                                          \
  do {                                                                    \
    if (!(condition)) ::pyramoe::fail(::pyramoe::Exit::bug, __VA_ARGS__); \
  } while (false)
