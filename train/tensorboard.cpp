#include "train/tensorboard.h"

#include <bit>
#include <chrono>
#include <cstring>

#include "core/crc32c.h"

namespace pyramoe::train {
namespace {

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

template <class T>
std::string little_endian(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>((value & 0x7f) | 0x80);
  return bytes + static_cast<char>(value);
}

// Protobuf fields: the key is number * 8 + wire type (0 varint, 1 eight bytes, 2 a length and
// bytes, 5 four bytes).
std::string bytes_field(int number, const std::string& value) {
  return varint(static_cast<uint64_t>(number) * 8 + 2) + varint(value.size()) + value;
}

}  // namespace

std::string scalar_event(const std::string& tag, int64_t step, double value, double seconds) {
  // Summary.Value {tag = 1, simple_value = 2}; Summary {value = 1};
  // Event {wall_time = 1, step = 2, file_version = 3, summary = 5}.
  const std::string inner =
      bytes_field(1, tag) + varint(2 * 8 + 5) + little_endian(static_cast<float>(value));
  return varint(1 * 8 + 1) + little_endian(seconds) + varint(2 * 8) +
         varint(static_cast<uint64_t>(step)) + bytes_field(5, bytes_field(1, inner));
}

std::string event_record(const std::string& event) {
  const std::string length = little_endian(static_cast<uint64_t>(event.size()));
  return length + little_endian(crc32c_masked(crc32c(length))) + event +
         little_endian(crc32c_masked(crc32c(event)));
}

EventFile::EventFile(const std::string& folder) {
  const double seconds = now_seconds();
  const std::string stem =
      cat(folder, "/events.out.tfevents.", static_cast<int64_t>(seconds), ".pyramoe");
  std::string path = stem;
  for (int i = 1; path_exists(path); ++i) path = cat(stem, ".", i);
  file_ = std::make_unique<AppendFile>(path);
  file_->append(
      event_record(varint(1 * 8 + 1) + little_endian(seconds) + bytes_field(3, "brain.Event:2")));
}

void EventFile::add_scalar(const std::string& tag, int64_t step, double value) {
  file_->append(event_record(scalar_event(tag, step, value, now_seconds())));
}

}  // namespace pyramoe::train
