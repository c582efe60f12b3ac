// The system calls that change the disk, each counted and each able to fail on request.
//
// One idea: faults are injected here and nowhere else, so a test can stop a save at its n-th
// operation, for every n, without touching the code that saves. Only core/file.cpp includes this
// page for its calls; tests include it for the fault plan.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "core/error.h"

namespace pyramoe {

enum class FaultKind : uint8_t {
  eio,          // the operation fails with EIO
  enospc,       // … with ENOSPC; a write first stores half of its bytes, as a full disk does
  short_write,  // a write stores half of its bytes and says so; others go through
  kill,         // the process dies by SIGKILL; a write first stores half of its bytes
};

struct FaultPlan {
  int64_t fail_at_operation = 0;  // 1 is the first operation from now on; 0: only count
  FaultKind kind = FaultKind::eio;
  bool and_all_later = false;  // a disk that stays full, not one that failed once
};

// Counting starts at zero with each call. The environment sets the same for a whole process:
// PYRAMOE_FAULT="enospc@17" (once) or "enospc@17+" (from then on); kinds eio enospc short kill.
void set_fault_plan(FaultPlan plan);
void clear_fault_plan();
// Operations since the plan was set: opens for writing, writes, truncations, fsyncs, renames,
// unlinks, new folders.
int64_t counted_operations();

// For tests of what power loss could destroy: told of every operation before it is made. Verbs:
// open write truncate sync rename exchange unlink mkdir; `to` is empty but for rename and exchange.
// An empty function ends it. Not while other threads write files.
using OperationObserver =
    std::function<void(const char* verb, const std::string& path, const std::string& to)>;
void observe_operations(OperationObserver observer);

namespace file_ops {

// As the system calls of these names, EINTR handled: -1 and errno on failure.
int open_for_write(const std::string& path, int flags);
ssize_t write(int fd, const void* data, size_t bytes);
int truncate(int fd, int64_t bytes);
int sync(int fd);
int rename(const std::string& from, const std::string& to);
// Two names change places in one moment; errno EINVAL or ENOSYS where a file system cannot.
int exchange(const std::string& from, const std::string& to);
int unlink(const std::string& path, bool folder);
int make_folder(const std::string& path);

}  // namespace file_ops

// Flushes a file or folder to the disk by its path. For a folder: what was created in it or renamed
// survives power loss.
void sync_path(const std::string& path, Exit code);

// Throws the Error for a failed call: what could not be done, to which path, why, and what to do.
//   wanted  bytes that the operation needed to store, -1 if that does not apply
[[noreturn]] void fail_io(Exit code, const std::string& verb, const std::string& path,
                          int error_number, int64_t wanted = -1);

// "12.3 GB", "512 bytes".
std::string human_bytes(int64_t bytes);

}  // namespace pyramoe
