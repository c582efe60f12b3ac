// CPU memory: aligned, counted, and kept by the C library between steps, because returning large
// blocks to the system costs a page fault for every page at the next use. Memory of a GPU comes
// from core/cuda_device.h and is counted here too.
#include "core/device.h"

#include <malloc.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "core/cuda_device.h"
#include "core/error.h"

namespace pyramoe {
namespace {

// What tensors hold of one device, and the most they ever held.
struct Counter {
  std::atomic<int64_t> held{0};
  std::atomic<int64_t> peak{0};

  void add(int64_t bytes) {
    const int64_t now = held.fetch_add(bytes) + bytes;
    int64_t seen = peak.load();
    while (now > seen && !peak.compare_exchange_weak(seen, now)) {
    }
  }
};

constexpr int kMostDevices = 64;
Counter host_counter;
Counter cuda_counters[kMostDevices];
std::atomic<int64_t> allocations{0};
std::atomic<int64_t> failing_allocation{0};

// Null on the meta device, where nothing is held.
Counter* counter(Device device) {
  if (device.type == DeviceType::meta) return nullptr;
  return device.type == DeviceType::cpu ? &host_counter : &cuda_counters[device.index];
}

void keep_memory_between_steps() {
  static const bool once = [] {
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    mallopt(M_TOP_PAD, 64 << 20);
    return true;
  }();
  (void)once;
}

// Asks for huge pages where a block holds whole ones: weights are read in strides that small pages
// slow down by a third.
void advise_huge_pages(void* data, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 2 << 20;
  const auto begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const auto end =
      (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / kPage * kPage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace

std::string to_string(Device device) {
  switch (device.type) {
    case DeviceType::cpu:
      return "cpu";
    case DeviceType::cuda:
      return "cuda:" + std::to_string(device.index);
    case DeviceType::meta:
      return "meta";
  }
  return "?";
}

bool cuda_available() { return cuda_device::count() > 0; }

Device parse_device(const std::string& text) {
  const int count = cuda_device::count();
  if (text == "cpu" || (text == "auto" && count == 0)) return kCpu;
  if (text == "auto" || text == "cuda") {
    if (count == 0) fail(Exit::config, "--device ", text, ": ", cuda_device::why_none());
    return {DeviceType::cuda, 0};
  }
  const std::string prefix = "cuda:";
  const std::string digits = text.rfind(prefix, 0) == 0 ? text.substr(prefix.size()) : "";
  if (digits.empty() || digits.size() > 2 ||
      digits.find_first_not_of("0123456789") != std::string::npos) {
    fail(Exit::config, "--device ", text, ": expected cpu, cuda, cuda:INDEX or auto");
  }
  const int index = std::stoi(digits);
  if (count == 0) fail(Exit::config, "--device ", text, ": ", cuda_device::why_none());
  if (index >= count || index >= kMostDevices) {
    fail(Exit::config, "--device ", text, ": this machine has ", count,
         " CUDA device(s); the highest is cuda:", count - 1);
  }
  return {DeviceType::cuda, index};
}

namespace {

[[noreturn]] void out_of_memory(int64_t bytes, Device device) {
  const int64_t now = counter(device)->held.load();
  if (device.type == DeviceType::cpu) {
    fail(Exit::memory, "out of memory: ", bytes, " bytes asked for, ", now,
         " bytes held by tensors; lower train.micro_batch, model.context or the model's size");
  }
  fail(Exit::memory, "out of memory on ", to_string(device), ": ", bytes, " bytes asked for, ", now,
       " held by tensors, ", cuda_device::free_bytes(device.index), " free of ",
       cuda_device::total_bytes(device.index),
       "; lower train.micro_batch (gradients accumulate over train.batch), set train.memory_limit ",
       "or train.recompute = true, use train.dtype = \"bf16\", or lower model.context or the "
       "model's size");
}

void* host_alloc(int64_t bytes) {
  keep_memory_between_steps();
  constexpr int64_t kAlign = 64;
  const int64_t rounded = (bytes + kAlign - 1) / kAlign * kAlign;
  void* data = std::aligned_alloc(kAlign, static_cast<size_t>(rounded));
  if (data != nullptr) advise_huge_pages(data, rounded);
  return data;
}

}  // namespace

void* device_alloc(int64_t bytes, Device device) {
  if (device.type == DeviceType::meta || bytes == 0) return nullptr;
  const bool planned = allocations.fetch_add(1) + 1 == failing_allocation.load();
  void* data = nullptr;
  if (!planned) {
    data = device.type == DeviceType::cpu ? host_alloc(bytes)
                                          : cuda_device::alloc(bytes, device.index);
  }
  if (data == nullptr) out_of_memory(bytes, device);
  counter(device)->add(bytes);
  return data;
}

void device_free(void* data, int64_t bytes, Device device) {
  if (data == nullptr) return;
  counter(device)->held.fetch_sub(bytes);
  if (device.type == DeviceType::cpu) {
    std::free(data);
  } else {
    cuda_device::free(data, device.index);
  }
}

void device_copy(void* to, Device to_device, const void* from, Device from_device, int64_t bytes) {
  if (bytes == 0) return;
  if (to_device.type == DeviceType::meta || from_device.type == DeviceType::meta) return;
  const bool to_cuda = to_device.type == DeviceType::cuda;
  const bool from_cuda = from_device.type == DeviceType::cuda;
  if (!to_cuda && !from_cuda) {
    std::memcpy(to, from, static_cast<size_t>(bytes));
  } else if (to_cuda && from_cuda && to_device.index != from_device.index) {
    cuda_device::copy_peer(to, to_device.index, from, from_device.index, bytes);
  } else {
    using cuda_device::Way;
    const Way way = !from_cuda ? Way::to_device : to_cuda ? Way::within : Way::to_host;
    cuda_device::copy(to, from, bytes, way, to_cuda ? to_device.index : from_device.index);
  }
}

void device_set_bytes(void* data, int value, int64_t bytes, Device device) {
  if (bytes == 0) return;
  if (device.type == DeviceType::cpu) std::memset(data, value, static_cast<size_t>(bytes));
  if (device.type == DeviceType::cuda) cuda_device::set_bytes(data, value, bytes, device.index);
}

void device_zero(void* data, int64_t bytes, Device device) {
  device_set_bytes(data, 0, bytes, device);
}

void device_synchronize(Device device) {
  if (device.type == DeviceType::cuda) cuda_device::synchronize(device.index);
}

int64_t fail_nth_device_alloc(int64_t n) {
  failing_allocation = n;
  return allocations.exchange(0);
}

int64_t device_bytes(Device device) {
  return device.type == DeviceType::meta ? 0 : counter(device)->held.load();
}

int64_t device_peak_bytes(Device device) {
  return device.type == DeviceType::meta ? 0 : counter(device)->peak.load();
}

void reset_device_peak_bytes(Device device) {
  if (device.type != DeviceType::meta) counter(device)->peak = counter(device)->held.load();
}

}  // namespace pyramoe
