// The safetensors file format: named tensors that any tool can read, and that cannot lie.
//
// A file is 8 bytes N (little endian), N bytes of JSON and the tensors' bytes. One idea: a header
// is believed only when all of it fits: every size by checked arithmetic, every tensor exactly as
// long as its shape says, all of them side by side from the first byte to the last. Format and
// limits: docs/formats-safetensors.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"
#include "core/file.h"
#include "core/shape.h"
#include "core/tensor.h"

namespace pyramoe {

using SafetensorsMetadata = std::map<std::string, std::string>;

// A tensor as a header describes it.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;          // as in the file: "F32", "F16", …
  std::optional<DType> type;  // the same as a DType; empty for those pyramoe does not compute with
  Shape shape;
  int64_t begin = 0;  // its bytes are [begin, end) of the file
  int64_t end = 0;
  int64_t bytes() const { return end - begin; }
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of their bytes
  SafetensorsMetadata metadata;
};

inline constexpr int64_t kSafetensorsMaxHeader = 100'000'000;
inline constexpr int64_t kSafetensorsMaxRank = 8;
inline constexpr int64_t kSafetensorsMaxName = 512;

// Checks and reads the header of a whole file in memory. Throws Error on the first thing wrong;
// time and memory are linear in the header, whatever it says.
//   what  names the file in errors
SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& what,
                                    Exit code = Exit::checkpoint);

class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::string& path, Exit code = Exit::checkpoint);

  const std::vector<SafetensorsEntry>& entries() const { return header_.entries; }
  const SafetensorsMetadata& metadata() const { return header_.metadata; }
  const std::string& path() const { return file_.path(); }
  const SafetensorsEntry* find(std::string_view name) const;  // nullptr if there is none
  const SafetensorsEntry& at(std::string_view name) const;    // Error if there is none
  // The bytes in the mapped file; valid as long as this reader. Not aligned in general.
  std::span<const std::byte> bytes(const SafetensorsEntry& entry) const;
  // A copy on the CPU. F16 becomes f32, which holds every half exactly; Error for types without a
  // DType.
  Tensor tensor(const SafetensorsEntry& entry) const;
  Tensor tensor(std::string_view name) const { return tensor(at(name)); }

 private:
  MappedFile file_;
  Exit code_;
  SafetensorsHeader header_;
  std::vector<size_t> by_name_;
};

// What a writer must know of a tensor before its bytes come.
struct SafetensorsSpec {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
};

struct SavedFile {
  int64_t bytes = 0;
  uint32_t crc = 0;  // CRC-32C of the whole file
};

// Writes a file tensor by tensor, so that no two need be in memory at once. Through FileWriter: the
// file appears whole at commit(), or not at all.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::string& path, std::vector<SafetensorsSpec> specs,
                    const SafetensorsMetadata& metadata = {}, Exit code = Exit::checkpoint);
  // The order in which the bytes are to be written: by descending dtype, then by name.
  const std::vector<SafetensorsSpec>& order() const { return specs_; }
  // The next bytes of the current tensor of order(), in pieces of any size.
  void write(const void* data, int64_t bytes) { file_.write(data, bytes); }
  SavedFile commit();

 private:
  FileWriter file_;
  std::vector<SafetensorsSpec> specs_;
  int64_t expected_ = 0;  // bytes of the whole file
};

// All at once, for tensors that are in memory.
struct SafetensorsItem {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  const std::byte* data = nullptr;
};
SavedFile write_safetensors(const std::string& path, std::vector<SafetensorsItem> items,
                            const SafetensorsMetadata& metadata = {}, Exit code = Exit::checkpoint);
// The same for tensors of any device.
SavedFile write_safetensors(const std::string& path,
                            const std::vector<std::pair<std::string, Tensor>>& tensors,
                            const SafetensorsMetadata& metadata = {}, Exit code = Exit::checkpoint);

// An IEEE half as a float, exactly.
float half_to_float(uint16_t half);

}  // namespace pyramoe
