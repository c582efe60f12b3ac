// What this machine can do, measured in the same run as whatever is compared with it.
#pragma once

#include <cstdint>
#include <functional>

#include "core/device.h"
#include "core/dtype.h"

namespace pyramoe::bench {

struct Limits {
  double gemm_flops = 0;  // best dense product, FLOP/s, all threads (cuBLAS on a GPU)
  double read_bytes = 0;  // reading memory far larger than the caches, bytes/s, all threads
  double copy_bytes = 0;  // reading and writing, bytes moved/s
};

Limits measure_limits(DType dtype, Device device = kCpu);

// Seconds of each of `runs` calls, after `warmup` calls that do not count; sorted.
std::vector<double> time_runs(int64_t warmup, int64_t runs, const std::function<void()>& call);
// The same for work on a device. On a GPU the time between two marks in its own work: calls are
// launched one after another without waiting, so launch latency counts only where it delays work.
std::vector<double> time_runs(Device device, int64_t warmup, int64_t runs,
                              const std::function<void()>& call);
double median(std::vector<double> values);
// The process's largest resident memory so far, bytes.
int64_t peak_resident_bytes();

}  // namespace pyramoe::bench
