// Where memory lives, and the one place that allocates, copies and synchronises.
//
// The CPU half is in core/device.cpp; it reaches CUDA through core/cuda_device.h, which
// cuda/device.cu answers. In a build without CUDA asking for a GPU is a clear error.
#pragma once

#include <cstdint>
#include <string>

namespace pyramoe {

enum class DeviceType : uint8_t { cpu, cuda, meta };  // meta: shapes and costs, no memory

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

inline constexpr Device kCpu{};

std::string to_string(Device device);

// True when this build has CUDA kernels and the machine has a device to run them.
bool cuda_available();

// "cpu", "cuda", "cuda:1" or "auto" (cuda where it is there). Throws Error(config) otherwise.
Device parse_device(const std::string& text);

// 64-byte aligned memory; nullptr for zero bytes. Throws Error(memory) with the size asked for.
void* device_alloc(int64_t bytes, Device device);
void device_free(void* data, int64_t bytes, Device device);
// Copies between any two devices; returns when the destination may be read by `to`'s stream (by the
// host, when `to` is the CPU) and the source may be written again.
void device_copy(void* to, Device to_device, const void* from, Device from_device, int64_t bytes);
void device_zero(void* data, int64_t bytes, Device device);
void device_set_bytes(void* data, int value, int64_t bytes, Device device);
// Waits for all work given to the device.
void device_synchronize(Device device);

// For tests: the n-th allocation from now on fails as if memory had run out; 0 = none. Returns how
// many allocations there were since the last call.
int64_t fail_nth_device_alloc(int64_t n);

// Bytes now held and the most ever held by tensors on this device.
int64_t device_bytes(Device device);
int64_t device_peak_bytes(Device device);
void reset_device_peak_bytes(Device device);

}  // namespace pyramoe
