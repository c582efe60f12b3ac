#include "dist/fault.h"

#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <sstream>

#include "core/error.h"

namespace pyramoe::dist {

Fault Fault::from_environment(int rank) {
  Fault fault;
  const char* text = std::getenv("PYRAMOE_RANK_FAULT");
  if (!text) return fault;
  std::istringstream in(text);
  std::string who, count;
  std::getline(in, who, ',');
  std::getline(in, fault.phase_, ',');
  std::getline(in, count, ',');
  std::getline(in, fault.kind_);
  const bool known = fault.kind_ == "kill" || fault.kind_ == "stop" || fault.kind_ == "exit";
  if (!known) {
    fail(Exit::config, "PYRAMOE_RANK_FAULT = ", text, ": expected rank,phase,n,kill|stop|exit");
  }
  fault.armed_ = std::atoi(who.c_str()) == rank;
  fault.left_ = std::atoi(count.c_str());
  return fault;
}

void Fault::at(const std::string& phase) {
  if (!armed_ || phase != phase_ || left_-- > 0) return;
  if (kind_ == "exit") ::_exit(9);
  ::kill(::getpid(), kind_ == "kill" ? SIGKILL : SIGSTOP);
}

}  // namespace pyramoe::dist
