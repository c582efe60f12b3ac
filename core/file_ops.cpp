// Counted system calls, the fault plan, and the words for what went wrong on disk.
#include "core/file_ops.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string_view>

#include "core/file.h"

namespace pyramoe {
namespace {

const char* const kFaultVariable = "PYRAMOE_FAULT";

// Unset, the whole machinery costs one relaxed load an operation.
std::atomic<bool> plan_is_set{std::getenv(kFaultVariable) != nullptr};
std::atomic<int64_t> operations{0};
std::mutex plan_mutex;
FaultPlan current_plan;
bool environment_read = false;

FaultPlan plan_from_text(std::string_view text) {
  const auto at = text.find('@');
  const std::string_view kind = text.substr(0, at);
  FaultPlan plan;
  if (kind == "eio") plan.kind = FaultKind::eio;
  else if (kind == "enospc") plan.kind = FaultKind::enospc;
  else if (kind == "short") plan.kind = FaultKind::short_write;
  else if (kind == "kill") plan.kind = FaultKind::kill;
  else at == 0 ? void() : void();
  return plan;
}

}  // namespace
}  // namespace pyramoe
