// CRC-32C (Castagnoli), the checksum of checkpoints, token files and TensorBoard records.
//
// One idea: the processor's crc32 instruction has a latency of three cycles but starts one every
// cycle, so three independent thirds of a block are summed side by side and then joined.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace pyramoe {

// The checksum of `bytes` bytes that follow data whose checksum is `before` (0: nothing before).
// crc32c(b, crc32c(a)) is the checksum of a and b joined.
uint32_t crc32c(const void* data, size_t bytes, uint32_t before = 0);
inline uint32_t crc32c(std::string_view text, uint32_t before = 0) {
  return crc32c(text.data(), text.size(), before);
}

// The same number without special instructions: the definition of right, and the fallback.
uint32_t crc32c_portable(const void* data, size_t bytes, uint32_t before = 0);

// The form that TFRecord files store, so that a checksum of data with checksums stays useful.
inline uint32_t crc32c_masked(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; }

}  // namespace pyramoe
