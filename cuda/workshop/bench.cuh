// What the workshop's programs share: inputs, a clock, the size of an error, the lines of a
// staircase.
//
// Each step is checked against the CPU twin's result first, then timed; what lies between two calls
// (nothing, cold memory, a whole graph) is the program's own.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "core/rng.h"
#include "cuda/launch.cuh"

namespace pyramoe::workshop {

inline constexpr Device kGpu{DeviceType::cuda, 0};

// bf16 values of N(0, scale^2), on the CPU.
inline Tensor normal(Shape shape, uint64_t seed, double scale = 1) {
  Tensor x(std::move(shape), DType::f32);
  const RngKey key{.seed = seed, .purpose = RngPurpose::test};
  for (int64_t i = 0; i < x.numel(); ++i) {
    x.data<float>()[i] = static_cast<float>(scale * random_normal(key, static_cast<uint64_t>(i)));
  }
  return x.to(DType::bf16);
}

// Median ms of a call: nine measurements of `calls` calls, after one that warms up. `before` runs
// ahead of each measurement and is not in it.
inline double median_ms(const std::function<void()>& run, int calls = 4,
                        const std::function<void()>& before = nullptr) {
  cudaEvent_t begin, end;
  PM_CUDA(cudaEventCreate(&begin));
  PM_CUDA(cudaEventCreate(&end));
  run();
  std::vector<float> times(9);
  for (float& ms : times) {
    if (before) before();
    PM_CUDA(cudaEventRecord(begin, gpu::stream()));
    for (int i = 0; i < calls; ++i) run();
    PM_CUDA(cudaEventRecord(end, gpu::stream()));
    PM_CUDA(cudaEventSynchronize(end));
    PM_CUDA(cudaEventElapsedTime(&ms, begin, end));
  }
  PM_CUDA(cudaEventDestroy(begin));
  PM_CUDA(cudaEventDestroy(end));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2] / calls;
}

// Largest |got - want| over its bound, relative |want| + absolute: right up to 1.
inline double error_in_bounds(const Tensor& want, const Tensor& got, double relative,
                              double absolute) {
  const std::vector<double> a = want.to_vector(), b = got.to_vector();
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double bounds = std::abs(a[i] - b[i]) / (relative * std::abs(a[i]) + absolute);
    worst = std::isnan(bounds) ? INFINITY : std::max(worst, bounds);
  }
  return worst;
}
inline const char* verdict(double error) { return error <= 1 ? "right" : "WRONG"; }

struct Step {
  const char* name;
  std::function<void()> launch;  // writes y
};

// Checks, times and prints the steps. `error` judges y; `flops` are those of a step, `limit` is in
// TFLOP/s. Returns how many steps are wrong.
inline int climb(const std::vector<Step>& steps, Tensor& y,
                 const std::function<double(const Tensor&)>& error, double flops, double limit) {
  int wrong = 0;
  for (const Step& step : steps) {
    y.zero();
    step.launch();
    const double off = error(y.to(kCpu));
    wrong += !(off <= 1);
    const double ms = median_ms(step.launch), tflops = flops / ms * 1e-9;
    std::printf("%-10s %9.3f ms %7.1f TFLOP/s %5.1f %% of the limit   %s (%.2f of the bound)\n",
                step.name, ms, tflops, 100 * tflops / limit, verdict(off), off);
  }
  return wrong;
}

// Argument i of the command line, or `otherwise`.
inline long argument(int argc, char** argv, int i, long otherwise) {
  return argc > i ? std::atol(argv[i]) : otherwise;
}

}  // namespace pyramoe::workshop
