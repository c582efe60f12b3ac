// What every kernel file starts from: the stream, the grid, dtype visitors, scratch memory.
//
// All work of a device goes to one stream, so kernels need no events between them and memory freed
// on the host may be handed out again at once. Kernels live in kernels::cuda; this is gpu::.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "core/tensor.h"
#include "cuda/check.h"

namespace pyramoe::gpu {

using Bf16 = __nv_bfloat16;

cudaStream_t stream();      // the compute stream of the current device
int multiprocessors();      // of the current device
bool has_hopper_kernels();  // wgmma and TMA: sm_90a code and device; PYRAMOE_PORTABLE=1 says no

// Raises a kernel's dynamic shared-memory limit, once a kernel and device.
void allow_shared_memory(const void* kernel, int bytes);

// Stream-ordered scratch of a twin: allocated here, freed (in stream order) with the object.
class Scratch {
 public:
  explicit Scratch(int64_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  template <class T>
  T* data() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
  int64_t bytes_;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
// Blocks for `count` items at `per_block`, at most `most` (grid-stride kernels), at least one.
inline unsigned grid(int64_t count, int64_t per_block, int64_t most = 1 << 30) {
  return static_cast<unsigned>(std::clamp<int64_t>(ceil_div(count, per_block), 1, most));
}

// A tensor's elements as the device type.
template <class T>
T* data(const Tensor& x) {
  return static_cast<T*>(x.raw());
}

// Calls f.template operator()<T>() with float or Bf16. f64 is for checking, on the CPU only.
template <class F>
decltype(auto) visit_floating(DType type, const char* kernel, F&& f) {
  if (type == DType::f32) return f.template operator()<float>();
  if (type == DType::bf16) return f.template operator()<Bf16>();
  fail(Exit::config, kernel, ": no CUDA kernel for ", to_string(type),
       "; train.dtype is f32 or bf16 on a GPU (f64 runs on the CPU)");
}

}  // namespace pyramoe::gpu
