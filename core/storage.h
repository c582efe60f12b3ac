// Owned bytes on one device. A Storage is shared by all tensors that view it and freed with the
// last of them; device.h counts what is held.
#pragma once

#include <cstdint>

#include "core/device.h"

namespace pyramoe {

class Storage {
 public:
  // Fresh, uninitialised memory. With PYRAMOE_FILL_NAN=1 (tests set it) it is filled with NaN
  // bytes, so that reading what nobody wrote shows.
  Storage(int64_t bytes, Device device);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  void* data_;
  int64_t bytes_;
  Device device_;
};

}  // namespace pyramoe
