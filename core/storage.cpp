#include "core/storage.h"

#include "core/environment.h"

namespace pyramoe {

Storage::Storage(int64_t bytes, Device device) : bytes_(bytes), device_(device) {
  data_ = device_alloc(bytes, device);
  static const bool fill_with_nan = environment_flag("PYRAMOE_FILL_NAN");
  if (fill_with_nan) device_set_bytes(data_, 0xff, bytes, device);
}

Storage::~Storage() { device_free(data_, bytes_, device_); }

}  // namespace pyramoe
