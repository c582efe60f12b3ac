// What core/device.cpp asks of CUDA: memory, copies and waiting on one device.
//
// cuda/device.cu answers in a build with CUDA, core/no_cuda.cpp in one without. All work of a
// device is ordered by one stream, so freed memory may be handed out again at once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace pyramoe::cuda_device {

int count();             // devices of this machine
std::string why_none();  // why count() is 0, and what to do about it
// Makes `index` the device that kernels of this thread run on. Throws Error(config) where it is not
// there or this build has no kernels for it.
void select(int index);
// Null when the device has no room left.
void* alloc(int64_t bytes, int index);
void free(void* data, int index) noexcept;
// Host memory may be written again when a copy returns; a copy to the host returns with the bytes.
enum class Way { to_device, to_host, within };
void copy(void* to, const void* from, int64_t bytes, Way way, int index);
// Between two devices.
void copy_peer(void* to, int to_index, const void* from, int from_index, int64_t bytes);
void set_bytes(void* data, int value, int64_t bytes, int index);
void synchronize(int index);
int64_t total_bytes(int index);  // memory of the device
int64_t free_bytes(int index);   // of it, what nobody holds
// A moment in the device's work, and the seconds from one to a later one (waits for both).
std::shared_ptr<void> mark(int index);
double seconds_between(void* begin, void* end);
// Gives memory that the pool keeps without a user back to the driver.
void trim(int index);

// Records the work that f hands to the device without running it; replay() runs it.
//   bytes      device memory that f is expected to need; more is found when that was too little
//   memory_of  what an earlier capture returned, to use its memory too; or null
std::shared_ptr<void> capture(int index, int64_t bytes, const std::function<void()>& f,
                              void* memory_of);
void replay(void* captured);
bool capturing();

// Opens and closes a range that profilers show (NVTX), named after a kernel.
void open_range(const char* name);
void close_range();
// After each kernel with PYRAMOE_SYNC=1: waits, so that the kernel that failed names itself.
void after_kernel(const char* name, int index);

}  // namespace pyramoe::cuda_device
