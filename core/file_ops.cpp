// Counted system calls, the fault plan, and the words for what went wrong on disk.
#include "core/file_ops.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string_view>
#include <utility>

#include "core/file.h"

namespace pyramoe {
namespace {

constexpr const char* kFaultVariable = "PYRAMOE_FAULT";

// Without a plan the whole machinery costs one relaxed load an operation.
std::atomic<bool> plan_is_set{std::getenv(kFaultVariable) != nullptr};
std::atomic<int64_t> operations{0};
std::mutex plan_mutex;
FaultPlan current_plan;
bool environment_done = false;

FaultPlan parse_plan(std::string_view text) {
  FaultPlan plan;
  const size_t at = text.find('@');
  const std::string_view kind = text.substr(0, at);
  std::string_view number = at == std::string_view::npos ? "" : text.substr(at + 1);
  if (number.ends_with('+')) {
    plan.and_all_later = true;
    number.remove_suffix(1);
  }
  const char* end = number.data() + number.size();
  const auto parsed = std::from_chars(number.data(), end, plan.fail_at_operation);
  bool known = true;
  if (kind == "eio")
    plan.kind = FaultKind::eio;
  else if (kind == "enospc")
    plan.kind = FaultKind::enospc;
  else if (kind == "short")
    plan.kind = FaultKind::short_write;
  else if (kind == "kill")
    plan.kind = FaultKind::kill;
  else
    known = false;
  if (!known || number.empty() || parsed.ec != std::errc{} || parsed.ptr != end ||
      plan.fail_at_operation < 1)
    fail(Exit::config, kFaultVariable, " = \"", text,
         "\" is not a fault: expected KIND@N or KIND@N+ with KIND one of eio, enospc, short, kill "
         "and N >= 1");
  return plan;
}

enum class Fault : uint8_t { none, eio, enospc, short_write, kill };

// Counts one operation and says what must go wrong with it.
Fault next_fault() {
  if (!plan_is_set.load(std::memory_order_relaxed)) return Fault::none;
  const std::lock_guard lock(plan_mutex);
  if (!environment_done) {
    current_plan = parse_plan(std::getenv(kFaultVariable));
    environment_done = true;
  }
  const int64_t number = ++operations;
  const int64_t target = current_plan.fail_at_operation;
  if (target == 0 || number < target) return Fault::none;
  if (number > target && !current_plan.and_all_later) return Fault::none;
  switch (current_plan.kind) {
    case FaultKind::eio:
      return Fault::eio;
    case FaultKind::enospc:
      return Fault::enospc;
    case FaultKind::short_write:
      return Fault::short_write;
    case FaultKind::kill:
      return Fault::kill;
  }
  return Fault::none;
}

// For operations other than write: true if the call must not be made (errno is set).
bool injected_failure() {
  switch (next_fault()) {
    case Fault::none:
    case Fault::short_write:
      return false;
    case Fault::eio:
      errno = EIO;
      return true;
    case Fault::enospc:
      errno = ENOSPC;
      return true;
    case Fault::kill:
      ::raise(SIGKILL);
      return true;
  }
  return false;
}

OperationObserver observer;

void tell(const char* verb, const std::string& path, const std::string& to = "") {
  if (observer) observer(verb, path, to);
}

// The name behind a descriptor, asked for only when somebody watches.
void tell(const char* verb, int fd) {
  if (!observer) return;
  char name[4096];
  const ssize_t length = ::readlink(cat("/proc/self/fd/", fd).c_str(), name, sizeof name);
  observer(verb, std::string(name, length > 0 ? static_cast<size_t>(length) : 0), "");
}

template <class Call>
auto retry_interrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

}  // namespace

void set_fault_plan(FaultPlan plan) {
  const std::lock_guard lock(plan_mutex);
  current_plan = plan;
  environment_done = true;
  operations = 0;
  plan_is_set = true;
}

void clear_fault_plan() {
  const std::lock_guard lock(plan_mutex);
  current_plan = {};
  environment_done = true;
  plan_is_set = false;
}

void observe_operations(OperationObserver next) { observer = std::move(next); }

int64_t counted_operations() { return operations; }

namespace file_ops {

int open_for_write(const std::string& path, int flags) {
  if (injected_failure()) return -1;
  tell("open", path);
  return retry_interrupted([&] { return ::open(path.c_str(), flags | O_CLOEXEC, 0666); });
}

ssize_t write(int fd, const void* data, size_t bytes) {
  const Fault fault = next_fault();
  tell("write", fd);
  const size_t count = fault == Fault::none ? bytes : (bytes + 1) / 2;
  if (fault == Fault::eio) return errno = EIO, -1;
  const ssize_t written = retry_interrupted([&] { return ::write(fd, data, count); });
  if (fault == Fault::kill) ::raise(SIGKILL);
  if (fault == Fault::enospc) return errno = ENOSPC, -1;
  return written;
}

int truncate(int fd, int64_t bytes) {
  if (injected_failure()) return -1;
  tell("truncate", fd);
  return retry_interrupted([&] { return ::ftruncate(fd, bytes); });
}

int sync(int fd) {
  if (injected_failure()) return -1;
  tell("sync", fd);
  return retry_interrupted([&] { return ::fsync(fd); });
}

int rename(const std::string& from, const std::string& to) {
  if (injected_failure()) return -1;
  tell("rename", from, to);
  return ::rename(from.c_str(), to.c_str());
}

int exchange(const std::string& from, const std::string& to) {
  if (injected_failure()) return -1;
  tell("exchange", from, to);
  return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE);
}

int unlink(const std::string& path, bool folder) {
  if (injected_failure()) return -1;
  tell("unlink", path);
  return ::unlinkat(AT_FDCWD, path.c_str(), folder ? AT_REMOVEDIR : 0);
}

int make_folder(const std::string& path) {
  if (injected_failure()) return -1;
  tell("mkdir", path);
  return ::mkdir(path.c_str(), 0777);
}

}  // namespace file_ops

void sync_path(const std::string& path, Exit code) {
  const int fd = retry_interrupted([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); });
  if (fd < 0) fail_io(code, "open", path, errno);
  // Some network file systems cannot flush a folder and say EINVAL; there is nothing more to do.
  const bool failed = file_ops::sync(fd) != 0 && errno != EINVAL;
  const int why = errno;
  ::close(fd);
  if (failed) fail_io(code, "flush", path, why);
}

std::string human_bytes(int64_t bytes) {
  if (bytes < 1000) return fmt::format("{} bytes", bytes);
  auto amount = static_cast<double>(bytes);
  const char* const units[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
  size_t unit = 0;
  for (amount /= 1000; amount >= 999.5 && unit < 5; ++unit) amount /= 1000;
  return fmt::format("{:.3g} {}", amount, units[unit]);
}

namespace {

const char* advice(int error_number) {
  switch (error_number) {
    case ENOSPC:
      return "free some space or choose a folder on another disk, then run again";
    case EDQUOT:
      return "your disk quota is used up: remove files or choose another folder";
    case EIO:
      return "the disk or network file system reports a fault: check it (dmesg) and run again";
    case EROFS:
      return "the file system is mounted read-only: choose another folder";
    case ENOMEM:
      return "free some memory, or raise its limit (ulimit -v), and run again";
    case EMFILE:
    case ENFILE:
      return "too many open files: raise the limit with `ulimit -n 4096` and run again";
    case EACCES:
    case EPERM:
      return "check the owner and permissions of the file and its folders (ls -l)";
    case ENOENT:
      return "check the spelling of the path and that its folder exists";
    case ENOTDIR:
      return "a part of the path is a file, not a folder";
    case EISDIR:
      return "this is a folder; a file was expected";
    case ENAMETOOLONG:
      return "choose a shorter name";
    case EFBIG:
      return "the file would pass the size limit of this process or file system (ulimit -f)";
    case ENOTEMPTY:
    case EEXIST:
      return "something of that name is there already: move it away or choose another name";
    default:
      return "check the path and run again";
  }
}

}  // namespace

void fail_io(Exit code, const std::string& verb, const std::string& path, int error_number,
             int64_t wanted) {
  // Too little memory says nothing about the file: nobody must take it for a damaged one.
  if (error_number == ENOMEM) code = Exit::memory;
  std::string room;
  if (wanted >= 0) {
    const int64_t free = free_bytes(path);
    room = fmt::format(" ({} wanted, {} free)", human_bytes(wanted),
                       free < 0 ? "unknown" : human_bytes(free));
  }
  fail(code, "cannot ", verb, " ", path, ": ", std::strerror(error_number), room, "; ",
       advice(error_number));
}

}  // namespace pyramoe
