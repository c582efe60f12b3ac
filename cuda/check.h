// Result checks: every CUDA and cuBLAS call goes through one of these.
//
// An error names the call, what CUDA said and the device. A launch is checked by PM_LAUNCHED()
// right after it; PYRAMOE_SYNC=1 also waits there, so that the failing kernel names itself.
#pragma once

#include <cuda_runtime.h>

#include "core/error.h"

namespace pyramoe::gpu {

[[noreturn]] void fail_cuda(cudaError_t error, const char* call, const char* file, int line);
void check_launch(const char* file, int line);

}  // namespace pyramoe::gpu

#define PM_CUDA(call)                                                                            \
  do {                                                                                           \
    const cudaError_t pm_error = (call);                                                         \
    if (pm_error != cudaSuccess) ::pyramoe::gpu::fail_cuda(pm_error, #call, __FILE__, __LINE__); \
  } while (0)
#define PM_LAUNCHED() ::pyramoe::gpu::check_launch(__FILE__, __LINE__)
