// Memory, copies and the stream of a GPU: what core/cuda_device.h and cuda/launch.cuh declare.
//
// One stream a device carries all its work. Memory comes from the driver's stream-ordered pool,
// which keeps what is freed (its release threshold is lifted), so after the first step allocating
// is a look-up. Small copies from the host go through a pinned ring and need no waiting.
#include <cuda_runtime.h>
#include <nvtx3/nvToolsExt.h>

#include <array>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "core/cuda_device.h"
#include "core/environment.h"
#include "cuda/arena.h"
#include "cuda/launch.cuh"

namespace pyramoe {
namespace {

// A kernel in every build: a device without code for it cannot run the others either.
__global__ void probe_kernel() {}

// Pinned memory that small copies from the host pass through: two halves, each reused when the
// copies out of it are done.
class PinnedRing {
 public:
  static constexpr int64_t kHalf = 4 << 20;

  // The part of a half now filled with `bytes` of `from`, to be copied on `stream`.
  const void* put(const void* from, int64_t bytes, cudaStream_t stream) {
    if (data_ == nullptr) open();
    if (used_ + bytes > kHalf) {
      PM_CUDA(cudaEventRecord(done_[half_], stream));
      half_ = 1 - half_;
      used_ = 0;
      PM_CUDA(cudaEventSynchronize(done_[half_]));
    }
    char* place = data_ + half_ * kHalf + used_;
    std::memcpy(place, from, static_cast<size_t>(bytes));
    used_ += (bytes + 63) / 64 * 64;
    return place;
  }

 private:
  void open() {
    PM_CUDA(cudaMallocHost(reinterpret_cast<void**>(&data_), 2 * kHalf));
    for (cudaEvent_t& event : done_) {
      PM_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    }
  }

  char* data_ = nullptr;
  int half_ = 0;
  int64_t used_ = 0;
  std::array<cudaEvent_t, 2> done_{};
};

struct State {
  cudaStream_t stream = nullptr;
  cudaMemPool_t pool = nullptr;
  cudaDeviceProp properties{};
  PinnedRing ring;
  std::map<const void*, int> shared_limits;  // of kernels that asked for more than the default
};

constexpr int kMostDevices = 64;
std::mutex mutex;                                         // guards `states` and what is in them
std::array<std::unique_ptr<State>, kMostDevices> states;  // never freed: CUDA ends before statics
thread_local int current = -1;

std::unique_ptr<State> open_device(int index) {
  auto state = std::make_unique<State>();
  PM_CUDA(cudaSetDevice(index));
  PM_CUDA(cudaGetDeviceProperties(&state->properties, index));
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, probe_kernel) != cudaSuccess) {
    cudaGetLastError();
    fail(Exit::config, "--device cuda:", index, ": this build has no kernels for ",
         state->properties.name, " (compute capability ", state->properties.major, ".",
         state->properties.minor, "); build with `make gpu GPU=", state->properties.major,
         state->properties.minor, state->properties.major == 9 ? "a`" : "`");
  }
  PM_CUDA(cudaStreamCreateWithFlags(&state->stream, cudaStreamNonBlocking));
  PM_CUDA(cudaDeviceGetDefaultMemPool(&state->pool, index));
  uint64_t keep_all = std::numeric_limits<uint64_t>::max();
  PM_CUDA(cudaMemPoolSetAttribute(state->pool, cudaMemPoolAttrReleaseThreshold, &keep_all));
  return state;
}

State& state_of(int index) {
  cuda_device::select(index);
  return *states[static_cast<size_t>(index)];
}

State& current_state() { return state_of(current < 0 ? 0 : current); }

}  // namespace

// ---- core/cuda_device.h

namespace cuda_device {

int count() {
  static const int devices = [] {
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess) {
      cudaGetLastError();
      return 0;
    }
    return std::min(n, kMostDevices);
  }();
  return devices;
}

std::string why_none() {
  int n = 0;
  const cudaError_t error = cudaGetDeviceCount(&n);
  cudaGetLastError();
  const char* why = error == cudaSuccess ? "no device" : cudaGetErrorString(error);
  return cat("this machine has no GPU that CUDA can use (", why,
             "); use --device cpu, or look at nvidia-smi and CUDA_VISIBLE_DEVICES");
}

void select(int index) {
  if (index == current) return;
  if (index < 0 || index >= count()) {
    fail(Exit::config, "cuda:", index, ": this machine has ", count(), " CUDA device(s)");
  }
  {
    const std::lock_guard lock(mutex);
    std::unique_ptr<State>& state = states[static_cast<size_t>(index)];
    if (!state) state = open_device(index);
  }
  PM_CUDA(cudaSetDevice(index));
  current = index;
}

void* alloc(int64_t bytes, int index) {
  State& state = state_of(index);
  if (gpu::Arena* arena = gpu::capturing_arena()) return arena->alloc(bytes);
  void* data = nullptr;
  const auto size = static_cast<size_t>(bytes);
  cudaError_t error = cudaMallocAsync(&data, size, state.stream);
  if (error == cudaErrorMemoryAllocation) {  // give back what the pool keeps in other sizes
    cudaGetLastError();
    PM_CUDA(cudaStreamSynchronize(state.stream));
    PM_CUDA(cudaMemPoolTrimTo(state.pool, 0));
    error = cudaMallocAsync(&data, size, state.stream);
  }
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  PM_CUDA(error);
  return data;
}

// Called by destructors, also while the program ends and CUDA is gone: errors say nothing new.
void free(void* data, int index) noexcept {
  if (gpu::free_in_arena(data)) return;
  const std::unique_ptr<State>& state = states[static_cast<size_t>(index)];
  if (state) cudaFreeAsync(data, state->stream);
}

void copy(void* to, const void* from, int64_t bytes, Way way, int index) {
  State& state = state_of(index);
  const auto size = static_cast<size_t>(bytes);
  if (way == Way::within) {
    PM_CUDA(cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, state.stream));
    return;
  }
  PM_CHECK(!gpu::capturing_arena(),
           "a captured step copies between host and device; move the copy out of it");
  if (way == Way::to_device && bytes <= PinnedRing::kHalf / 4) {
    const std::lock_guard lock(mutex);
    const void* pinned = state.ring.put(from, bytes, state.stream);
    PM_CUDA(cudaMemcpyAsync(to, pinned, size, cudaMemcpyHostToDevice, state.stream));
    return;
  }
  PM_CUDA(cudaMemcpyAsync(to, from, size, cudaMemcpyDefault, state.stream));
  PM_CUDA(cudaStreamSynchronize(state.stream));
}

void copy_peer(void* to, int to_index, const void* from, int from_index, int64_t bytes) {
  synchronize(from_index);
  State& state = state_of(to_index);
  PM_CUDA(cudaMemcpyPeerAsync(to, to_index, from, from_index, static_cast<size_t>(bytes),
                              state.stream));
  PM_CUDA(cudaStreamSynchronize(state.stream));
}

void set_bytes(void* data, int value, int64_t bytes, int index) {
  PM_CUDA(cudaMemsetAsync(data, value, static_cast<size_t>(bytes), state_of(index).stream));
}

void synchronize(int index) { PM_CUDA(cudaStreamSynchronize(state_of(index).stream)); }

int64_t total_bytes(int index) {
  return static_cast<int64_t>(state_of(index).properties.totalGlobalMem);
}

// Free for the driver, and kept by the pool without a user.
int64_t free_bytes(int index) {
  State& state = state_of(index);
  size_t free = 0, total = 0;
  PM_CUDA(cudaMemGetInfo(&free, &total));
  uint64_t reserved = 0, used = 0;
  PM_CUDA(cudaMemPoolGetAttribute(state.pool, cudaMemPoolAttrReservedMemCurrent, &reserved));
  PM_CUDA(cudaMemPoolGetAttribute(state.pool, cudaMemPoolAttrUsedMemCurrent, &used));
  return static_cast<int64_t>(free + reserved - used);
}

std::shared_ptr<void> mark(int index) {
  State& state = state_of(index);
  cudaEvent_t event = nullptr;
  PM_CUDA(cudaEventCreate(&event));
  const std::shared_ptr<void> owned(event, [](void* e) { cudaEventDestroy(cudaEvent_t(e)); });
  PM_CUDA(cudaEventRecord(event, state.stream));
  return owned;
}

double seconds_between(void* begin, void* end) {
  float milliseconds = 0;
  PM_CUDA(cudaEventSynchronize(cudaEvent_t(end)));
  PM_CUDA(cudaEventElapsedTime(&milliseconds, cudaEvent_t(begin), cudaEvent_t(end)));
  return milliseconds * 1e-3;
}

void trim(int index) {
  State& state = state_of(index);
  PM_CUDA(cudaStreamSynchronize(state.stream));
  PM_CUDA(cudaMemPoolTrimTo(state.pool, 0));
}

void open_range(const char* name) { nvtxRangePushA(name); }
void close_range() { nvtxRangePop(); }

void after_kernel(const char* name, int index) {
  static const bool on = environment_flag("PYRAMOE_SYNC");
  if (!on || gpu::capturing_arena()) return;
  const cudaError_t error = cudaStreamSynchronize(state_of(index).stream);
  if (error != cudaSuccess) gpu::fail_cuda(error, name, "kernel", 0);
}

}  // namespace cuda_device

// ---- cuda/check.h and cuda/launch.cuh

namespace gpu {

void fail_cuda(cudaError_t error, const char* call, const char* file, int line) {
  const Exit code = error == cudaErrorMemoryAllocation ? Exit::memory : Exit::bug;
  fail(code, "CUDA: ", call, " at ", file, ":", line, " on cuda:", std::max(current, 0), ": ",
       cudaGetErrorName(error), ", ", cudaGetErrorString(error),
       environment_flag("PYRAMOE_SYNC")
           ? ""
           : "; an earlier kernel may be the cause: PYRAMOE_SYNC=1 names it");
}

void check_launch(const char* file, int line) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) fail_cuda(error, "launch", file, line);
  static const bool sync = environment_flag("PYRAMOE_SYNC");
  if (!sync || capturing_arena()) return;
  const cudaError_t result = cudaStreamSynchronize(stream());
  if (result != cudaSuccess) fail_cuda(result, "kernel", file, line);
}

cudaStream_t stream() { return current_state().stream; }
int multiprocessors() { return current_state().properties.multiProcessorCount; }

bool has_hopper_kernels() {
#if defined(PYRAMOE_NO_HOPPER)
  return false;
#else
  static const bool portable = environment_flag("PYRAMOE_PORTABLE");
  const cudaDeviceProp& device = current_state().properties;
  return !portable && device.major == 9 && device.minor == 0;
#endif
}

void allow_shared_memory(const void* kernel, int bytes) {
  State& state = current_state();
  const std::lock_guard lock(mutex);
  int& limit = state.shared_limits[kernel];
  if (bytes <= limit) return;
  limit = bytes;
  PM_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

Scratch::Scratch(int64_t bytes) : data_(nullptr), bytes_(bytes) {
  const Device device{DeviceType::cuda, std::max(current, 0)};
  data_ = device_alloc(bytes, device);
  static const bool poison = environment_flag("PYRAMOE_FILL_NAN");
  if (poison) device_set_bytes(data_, 0xff, bytes, device);
}

Scratch::~Scratch() { device_free(data_, bytes_, {DeviceType::cuda, std::max(current, 0)}); }

}  // namespace gpu
}  // namespace pyramoe
