// core/cuda_device.h in a build without CUDA: there is no device, and whoever asks for one is told
// how to get it. CMake takes this file where PYRAMOE_CUDA is off.
#include "core/cuda_device.h"
#include "core/error.h"

namespace pyramoe::cuda_device {
namespace {

[[noreturn]] void refuse() { fail(Exit::config, "--device cuda: ", why_none()); }

}  // namespace

int count() { return 0; }
std::string why_none() {
  return "this build has no CUDA; use --device cpu, or build with `make gpu`";
}
void select(int) { refuse(); }
void* alloc(int64_t, int) { refuse(); }
void free(void*, int) noexcept {}
void copy(void*, const void*, int64_t, Way, int) { refuse(); }
void copy_peer(void*, int, const void*, int, int64_t) { refuse(); }
void set_bytes(void*, int, int64_t, int) { refuse(); }
void synchronize(int) { refuse(); }
int64_t total_bytes(int) { return 0; }
int64_t free_bytes(int) { return 0; }
std::shared_ptr<void> mark(int) { refuse(); }
double seconds_between(void*, void*) { refuse(); }
void trim(int) {}
std::shared_ptr<void> capture(int, int64_t, const std::function<void()>&, void*) { refuse(); }
void replay(void*) { refuse(); }
bool capturing() { return false; }
void open_range(const char*) {}
void close_range() {}
void after_kernel(const char*, int) {}

}  // namespace pyramoe::cuda_device
