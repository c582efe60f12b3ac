// How a kernel finds its twin.
//
// PM_KERNEL declares one function in kernels::cpu and kernels::cuda and an object of the same name
// in kernels that holds both addresses. Calling the object checks that all tensors share a device,
// opens a trace range and calls the twin. A missing twin is a link error that names it; a wrong
// argument is a compile error. A build without CUDA holds null and says so when asked.
//
// Since every kernel passes here, three switches exist once: PYRAMOE_TRACE=1 (wall time by kernel),
// PYRAMOE_SYNC=1 (wait after each CUDA kernel: the one that fails names itself) and
// PYRAMOE_NANCHECK=1 (say which kernel first made a NaN). Profilers see each kernel's name (NVTX).
#pragma once

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "core/tensor.h"

namespace pyramoe {

// Wall time per kernel name, collected while tracing is on (PYRAMOE_TRACE=1 or set_tracing).
struct TraceRow {
  std::string name;
  int64_t calls = 0;
  double seconds = 0;
};
bool tracing();
void set_tracing(bool on);
std::vector<TraceRow> trace_rows();  // slowest first
void clear_trace();

namespace detail {

void add_trace(const char* name, double seconds);

class TraceRange {
 public:
  TraceRange(const char* name, Device device) : name_(tracing() ? name : nullptr), device_(device) {
    if (name_) start_ = std::chrono::steady_clock::now();
  }
  ~TraceRange() {
    if (!name_) return;
    device_synchronize(device_);
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start_;
    add_trace(name_, time.count());
  }
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;

 private:
  const char* name_;
  Device device_;
  std::chrono::steady_clock::time_point start_;
};

// Around a CUDA twin: the device is the current one and profilers see the kernel's name.
class CudaRange {
 public:
  CudaRange(const char* name, Device device);
  ~CudaRange();
  CudaRange(const CudaRange&) = delete;
  CudaRange& operator=(const CudaRange&) = delete;
  void done() const;  // the twin has returned

 private:
  const char* name_;
  Device device_;
};

bool checking_nan();
void check_nan(const char* name, const Tensor& output);
// Kernels take what they write as `Tensor&`, what they read as `const Tensor&`.
template <class Arg, class T>
void check_output(const char* name, const T& argument) {
  if constexpr (std::is_same_v<Arg, Tensor&>) check_nan(name, argument);
}

// Folds one argument into the device all tensors must share.
template <class T>
void meet_device(const char* name, std::optional<Device>& device, const T& argument) {
  if constexpr (std::is_same_v<T, Tensor>) {
    if (!argument.defined()) return;
    if (device && !(*device == argument.device())) {
      fail(Exit::bug, name, ": one tensor is on ", to_string(*device), ", another on ",
           to_string(argument.device()));
    }
    device = argument.device();
  } else if constexpr (std::is_same_v<T, std::span<const Tensor>>) {
    for (const Tensor& x : argument) meet_device(name, device, x);
  }
}

}  // namespace detail

template <class Signature>
struct Kernel;

template <class... Args>
struct Kernel<void(Args...)> {
  const char* name;
  void (*cpu)(Args...);
  void (*cuda)(Args...);

  void operator()(std::type_identity_t<Args>... args) const {
    std::optional<Device> device;
    (detail::meet_device<std::remove_cvref_t<Args>>(name, device, args), ...);
    const Device where = device.value_or(kCpu);
    detail::TraceRange range(name, where);
    if (where.type == DeviceType::cuda) {
      PM_CHECK(cuda != nullptr, name, ": this build has no CUDA");
      const detail::CudaRange cuda_range(name, where);
      cuda(args...);
      cuda_range.done();
    } else if (where.type == DeviceType::cpu) {
      cpu(args...);
    }
    if (detail::checking_nan()) (detail::check_output<Args>(name, args), ...);
  }
};

}  // namespace pyramoe

#if defined(PYRAMOE_CUDA)
#define PM_CUDA_TWIN(name) &cuda::name
#else
#define PM_CUDA_TWIN(name) nullptr
#endif

// Use inside namespace pyramoe::kernels. Inputs first, outputs last; an undefined Tensor means
// "without this"; scratch is the twin's own business.
#define PM_KERNEL(name, args) \
  namespace cpu {             \
  void name args;             \
  }                           \
  namespace cuda {            \
  void name args;             \
  }                           \
  inline constexpr Kernel<void args> name{#name, &cpu::name, PM_CUDA_TWIN(name)};
