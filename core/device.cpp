// CPU memory: aligned, counted, and kept by the C library between steps, because returning large
// blocks to the system costs a page fault for every page at the next use.
#include "core/device.h"

#include <malloc.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "core/error.h"

namespace pyramoe {
namespace {

std::atomic<int64_t> held{0};
std::atomic<int64_t> peak{0};
std::atomic<int64_t> allocations{0};
std::atomic<int64_t> failing_allocation{0};

[[noreturn]] void no_cuda(const char* what) {
  fail(Exit::config, what, ": this build has no CUDA; use --device cpu, or build with `make gpu`");
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

bool cuda_available() { return false; }

Device parse_device(const std::string& text) {
  if (text == "cpu" || (text == "auto" && !cuda_available())) return kCpu;
  if (text == "auto" || text.rfind("cuda", 0) == 0) no_cuda("--device cuda");
  fail(Exit::config, "--device ", text, ": expected cpu, cuda, cuda:INDEX or auto");
}

void* device_alloc(int64_t bytes, Device device) {
  if (device.type == DeviceType::meta || bytes == 0) return nullptr;
  if (device.type == DeviceType::cuda) no_cuda("allocating on a GPU");
  keep_memory_between_steps();
  constexpr int64_t kAlign = 64;
  const int64_t rounded = (bytes + kAlign - 1) / kAlign * kAlign;
  const bool planned = allocations.fetch_add(1) + 1 == failing_allocation.load();
  void* data = planned ? nullptr : std::aligned_alloc(kAlign, static_cast<size_t>(rounded));
  if (data == nullptr) {
    fail(Exit::memory, "out of memory: ", bytes, " bytes asked for, ", held.load(),
         " bytes held by tensors; lower train.micro_batch, model.context or the model's size");
  }
  advise_huge_pages(data, rounded);
  const int64_t now = held.fetch_add(bytes) + bytes;
  int64_t seen = peak.load();
  while (now > seen && !peak.compare_exchange_weak(seen, now)) {
  }
  return data;
}

void device_free(void* data, int64_t bytes, Device device) {
  if (data == nullptr) return;
  if (device.type == DeviceType::cpu) {
    held.fetch_sub(bytes);
    std::free(data);
  }
}

void device_copy(void* to, Device to_device, const void* from, Device from_device, int64_t bytes) {
  if (bytes == 0) return;
  if (to_device.type == DeviceType::meta || from_device.type == DeviceType::meta) return;
  if (to_device.type == DeviceType::cuda || from_device.type == DeviceType::cuda) no_cuda("copy");
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

void device_zero(void* data, int64_t bytes, Device device) {
  if (device.type == DeviceType::cuda) no_cuda("zero");
  if (device.type == DeviceType::cpu && bytes > 0) std::memset(data, 0, static_cast<size_t>(bytes));
}

void device_synchronize(Device device) {
  if (device.type == DeviceType::cuda) no_cuda("synchronize");
}

int64_t fail_nth_device_alloc(int64_t n) {
  failing_allocation = n;
  return allocations.exchange(0);
}

int64_t device_bytes(Device device) { return device.type == DeviceType::cpu ? held.load() : 0; }

int64_t device_peak_bytes(Device device) {
  return device.type == DeviceType::cpu ? peak.load() : 0;
}

void reset_device_peak_bytes(Device device) {
  if (device.type == DeviceType::cpu) peak.store(held.load());
}

}  // namespace pyramoe
