// Owned bytes on one device. A Storage is shared by all tensors that view it and freed with the
// last of them; device.h counts what is held.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "core/device.h"

namespace pyramoe {

class Storage {
 public:
  // Fresh, uninitialised memory. In test builds (PYRAMOE_FILL_NAN=1) it is filled with NaN bytes,
  // so that reading what nobody wrote shows.
  Storage(int64_t bytes, Device device);
  // Adopts memory owned by someone else (a file mapping, a peer's buffer) until `release`.
  Storage(void* data, int64_t bytes, Device device, std::function<void()> release);
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
  std::function<void()> release_;
};

}  // namespace pyramoe
