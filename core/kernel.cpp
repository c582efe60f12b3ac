#include "core/kernel.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <mutex>
#include <set>

#include "core/cuda_device.h"
#include "core/environment.h"

namespace pyramoe {
namespace {

std::mutex mutex;
std::map<std::string, TraceRow>& rows() {
  static std::map<std::string, TraceRow> table;
  return table;
}
bool& switch_on() {
  static bool on = environment_flag("PYRAMOE_TRACE");
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

CudaRange::CudaRange(const char* name, Device device) : name_(name), device_(device) {
  cuda_device::select(device.index);
  cuda_device::open_range(name);
}
CudaRange::~CudaRange() { cuda_device::close_range(); }
void CudaRange::done() const { cuda_device::after_kernel(name_, device_.index); }

bool checking_nan() {
  static const bool on = environment_flag("PYRAMOE_NANCHECK");
  return on;
}

// Rows that a kernel leaves unwritten (dropped tokens) may hold anything, so this warns, once a
// kernel, instead of failing.
void check_nan(const char* name, const Tensor& output) {
  if (!output.defined() || !is_floating(output.dtype()) || output.numel() == 0) return;
  if (cuda_device::capturing()) return;
  const std::vector<double> values = output.to_vector();
  const auto bad =
      std::find_if(values.begin(), values.end(), [](double x) { return std::isnan(x); });
  if (bad == values.end()) return;
  static std::set<std::string> seen;
  const std::lock_guard lock(mutex);
  if (!seen.insert(name).second) return;
  std::fprintf(stderr, "PYRAMOE_NANCHECK: %s wrote a NaN at element %td of %s %s\n", name,
               bad - values.begin(), to_string(output.shape()).c_str(), to_string(output.dtype()));
}

}  // namespace detail
}  // namespace pyramoe
