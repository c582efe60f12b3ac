#include "core/storage.h"

#include <cstdlib>
#include <cstring>

#include "core/error.h"

namespace pyramoe {
namespace {

bool fill_with_nan() {
  static const bool on = [] {
    const char* text = std::getenv("PYRAMOE_FILL_NAN");
    return text != nullptr && std::strcmp(text, "1") == 0;
  }();
  return on;
}

}  // namespace

Storage::Storage(int64_t bytes, Device device) : bytes_(bytes), device_(device) {
  data_ = device_alloc(bytes, device);
  if (fill_with_nan()) device_set_bytes(data_, 0xff, bytes, device);
}

Storage::Storage(void* data, int64_t bytes, Device device, std::function<void()> release)
    : data_(data), bytes_(bytes), device_(device), release_(std::move(release)) {
  PM_CHECK(release_ != nullptr, "Storage: adopted memory needs a release function");
}

Storage::~Storage() {
  if (release_) {
    release_();
  } else {
    device_free(data_, bytes_, device_);
  }
}

}  // namespace pyramoe
