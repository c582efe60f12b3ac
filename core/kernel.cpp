#include "core/kernel.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>

namespace pyramoe {
namespace {

std::mutex mutex;
std::map<std::string, TraceRow>& rows() {
  static std::map<std::string, TraceRow> table;
  return table;
}
bool& switch_on() {
  static bool on = std::getenv("PYRAMOE_TRACE") != nullptr;
  return on;
}

}  // namespace

bool tracing() { return switch_on(); }
void set_tracing(bool on) { switch_on() = on; }

void clear_trace() {
  const std::lock_guard lock(mutex);
  rows().clear();
}

std::vector<TraceRow> trace_rows() {
  const std::lock_guard lock(mutex);
  std::vector<TraceRow> sorted;
  for (const auto& [name, row] : rows()) sorted.push_back(row);
  std::sort(sorted.begin(), sorted.end(),
            [](const TraceRow& a, const TraceRow& b) { return a.seconds > b.seconds; });
  return sorted;
}

namespace detail {

void add_trace(const char* name, double seconds) {
  const std::lock_guard lock(mutex);
  TraceRow& row = rows()[name];
  row.name = name;
  ++row.calls;
  row.seconds += seconds;
}

}  // namespace detail
}  // namespace pyramoe
