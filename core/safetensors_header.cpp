// The header of a safetensors file, read from parser events without building a JSON value.
//
// The events drive a small machine: root object, then tensors or metadata, then arrays of sizes.
// What does not belong is refused where it stands, so hostile input costs no more than its length.
#include <algorithm>
#include <array>
#include <cstring>

#include "core/json.h"
#include "core/safetensors.h"

namespace pyramoe {
namespace {

struct KnownType {
  std::string_view name;
  int64_t size;
  std::optional<DType> type;
};

// Whole-byte types of the format; those without a DType can be listed and copied, not computed
// with.
constexpr std::array<KnownType, 15> kKnownTypes{{
    {"F64", 8, DType::f64},
    {"F32", 4, DType::f32},
    {"BF16", 2, DType::bf16},
    {"I64", 8, DType::i64},
    {"I32", 4, DType::i32},
    {"U8", 1, DType::u8},
    {"F16", 2, std::nullopt},
    {"BOOL", 1, std::nullopt},
    {"I8", 1, std::nullopt},
    {"I16", 2, std::nullopt},
    {"U16", 2, std::nullopt},
    {"U32", 4, std::nullopt},
    {"U64", 8, std::nullopt},
    {"F8_E4M3", 1, std::nullopt},
    {"F8_E5M2", 1, std::nullopt},
}};

const KnownType* known_type(std::string_view name) {
  for (const KnownType& type : kKnownTypes)
    if (type.name == name) return &type;
  return nullptr;
}

constexpr const char* kMetadataKey = "__metadata__";

class HeaderEvents {
 public:
  HeaderEvents(const std::string& what, Exit code) : what_(what), code_(code) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool null() { refuse("null"); }
  bool boolean(bool) { refuse("true or false"); }
  bool number_integer(int64_t value) { refuse(cat("the negative number ", value)); }
  bool number_float(double, const std::string& text) {
    refuse(cat("the number ", quoted(text), ", no whole number of 63 bits"));
  }
  bool binary(Json::binary_t&) { refuse("binary data"); }
  bool number_unsigned(uint64_t value) {
    if (state_ != State::shape && state_ != State::offsets) refuse("a number");
    if (value > static_cast<uint64_t>(INT64_MAX)) refuse(cat("the number ", value));
    if (state_ == State::offsets) {
      if (offsets_seen_ == 2) wrong("data_offsets has more than two numbers");
      (offsets_seen_++ == 0 ? entry_.begin : entry_.end) = static_cast<int64_t>(value);
    } else {
      if (static_cast<int64_t>(entry_.shape.size()) == kSafetensorsMaxRank)
        wrong(cat("more than ", kSafetensorsMaxRank, " axes"));
      entry_.shape.push_back(static_cast<int64_t>(value));
    }
    return true;
  }
  bool string(std::string& value) {
    if (state_ == State::metadata) {
      if (!header_.metadata.emplace(key_, std::move(value)).second)
        wrong(cat("the key ", quoted(key_), " comes twice"));
    } else if (state_ == State::tensor && key_ == "dtype") {
      entry_.dtype = std::move(value);
    } else {
      refuse(cat("the text ", quoted(value)));
    }
    return true;
  }
  bool start_object(size_t) {
    if (state_ == State::start)
      state_ = State::root;
    else if (state_ == State::root && name_ == kMetadataKey)
      start_metadata();
    else if (state_ == State::root)
      start_tensor();
    else
      refuse("an object");
    return true;
  }
  bool key(std::string& name) {
    if (state_ == State::root) {
      if (static_cast<int64_t>(name.size()) > kSafetensorsMaxName)
        fail(code_, what_, ": a tensor name of ", name.size(), " bytes, at most ",
             kSafetensorsMaxName, " are allowed");
      name_ = std::move(name);
    } else {
      key_ = std::move(name);
      if (state_ == State::tensor) check_field();
    }
    return true;
  }
  bool end_object() {
    if (state_ == State::tensor) finish_tensor();
    state_ = state_ == State::root ? State::end : State::root;
    return true;
  }
  bool start_array(size_t) {
    if (state_ == State::tensor && key_ == "shape")
      state_ = State::shape;
    else if (state_ == State::tensor && key_ == "data_offsets")
      state_ = State::offsets;
    else
      refuse("an array");
    return true;
  }
  bool end_array() {
    state_ = State::tensor;
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) {
    fail(code_, what_, ": the header is not valid JSON at its byte ", position, ": ",
         json_complaint(error));
  }

 private:
  enum class State : uint8_t { start, root, tensor, metadata, shape, offsets, end };

  [[noreturn]] void wrong(const std::string& problem) const {
    fail(code_, what_, ": tensor ", quoted(name_), ": ", problem);
  }
  [[noreturn]] void refuse(const std::string& found) const {
    if (state_ == State::start) fail(code_, what_, ": the header must be an object, got ", found);
    if (state_ == State::root)
      fail(code_, what_, ": ", quoted(name_), " must be an object, got ", found);
    if (state_ == State::metadata)
      fail(code_, what_, ": the metadata ", quoted(key_), " must be a text, got ", found);
    wrong(cat("the field ", quoted(key_), " cannot have ", found));
  }

  void start_metadata() {
    if (has_metadata_) fail(code_, what_, ": ", kMetadataKey, " comes twice");
    has_metadata_ = true;
    state_ = State::metadata;
  }
  void start_tensor() {
    entry_ = {};
    entry_.name = name_;
    offsets_seen_ = 0;
    fields_ = 0;
    state_ = State::tensor;
  }
  void check_field() {
    const unsigned bit = key_ == "dtype"          ? 1u
                         : key_ == "shape"        ? 2u
                         : key_ == "data_offsets" ? 4u
                                                  : 0u;
    if (bit == 0) wrong(cat("an unknown field ", quoted(key_)));
    if (fields_ & bit) wrong(cat("the field ", quoted(key_), " comes twice"));
    fields_ |= bit;
  }

  // Fields complete, and as many bytes as dtype and shape say.
  void finish_tensor() {
    if (fields_ != 7) wrong("it must have dtype, shape and data_offsets");
    if (offsets_seen_ != 2) wrong("data_offsets must be two numbers");
    if (entry_.end < entry_.begin)
      wrong(cat("data_offsets run backwards, from ", entry_.begin, " to ", entry_.end));
    const KnownType* type = known_type(entry_.dtype);
    if (!type) wrong(cat("the dtype ", quoted(entry_.dtype), " is unknown"));
    entry_.type = type->type;
    // Zeros are left out of the product, so that a zero cannot hide an overflow.
    int64_t bytes = type->size;
    bool is_empty = false;
    for (const int64_t size : entry_.shape) {
      is_empty = is_empty || size == 0;
      if (size != 0 && __builtin_mul_overflow(bytes, size, &bytes))
        wrong(cat("the shape ", to_string(entry_.shape), " overflows 63 bits"));
    }
    if (is_empty) bytes = 0;
    if (bytes != entry_.bytes())
      wrong(cat(entry_.dtype, " ", to_string(entry_.shape), " takes ", bytes,
                " bytes, data_offsets give it ", entry_.bytes()));
    header_.entries.push_back(std::move(entry_));
  }

  const std::string& what_;
  Exit code_;
  SafetensorsHeader header_;
  State state_ = State::start;
  std::string name_;  // the tensor's
  std::string key_;   // inside a tensor or the metadata
  SafetensorsEntry entry_;
  int offsets_seen_ = 0;
  unsigned fields_ = 0;
  bool has_metadata_ = false;
};

void check_names(const std::vector<SafetensorsEntry>& entries, const std::string& what, Exit code) {
  std::vector<std::string_view> names;
  names.reserve(entries.size());
  for (const SafetensorsEntry& entry : entries) names.push_back(entry.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) fail(code, what, ": tensor ", quoted(*twice), " comes twice");
}

// Sorts by place and checks that the tensors cover the data area: no hole, no overlap, no tail.
// Turns offsets in the data area into offsets in the file.
void place_entries(std::vector<SafetensorsEntry>& entries, int64_t data_begin, int64_t file_bytes,
                   const std::string& what, Exit code) {
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t next = 0;
  for (SafetensorsEntry& entry : entries) {
    if (entry.begin != next)
      fail(code, what, ": tensor ", quoted(entry.name), " begins at data byte ", entry.begin,
           entry.begin < next ? ", inside the one before, which ends at "
                              : ", leaving a hole after the one before, which ends at ",
           next);
    next = entry.end;
    if (next > file_bytes - data_begin) break;
    entry.begin += data_begin;
    entry.end += data_begin;
  }
  if (next != file_bytes - data_begin)
    fail(code, what, ": the header describes ", next, " bytes of tensors, the file has ",
         file_bytes - data_begin, next > file_bytes - data_begin ? ": it was cut short" : "");
}

}  // namespace

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& what,
                                    Exit code) {
  const auto file_bytes = static_cast<int64_t>(file.size());
  if (file_bytes < 8)
    fail(code, what, ": ", file_bytes, " bytes are too few for a safetensors file");
  uint64_t length = 0;
  for (size_t i = 0; i < 8; ++i) length |= static_cast<uint64_t>(file[i]) << (8 * i);
  if (length > static_cast<uint64_t>(kSafetensorsMaxHeader))
    fail(code, what, ": not a safetensors file: it claims a header of ", length, " bytes, at most ",
         kSafetensorsMaxHeader, " are allowed");
  const auto header_bytes = static_cast<int64_t>(length);
  if (header_bytes > file_bytes - 8)
    fail(code, what, ": it claims a header of ", header_bytes, " bytes, but only ", file_bytes - 8,
         " follow: the file was cut short or is no safetensors file");
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, length);
  if (!text.starts_with('{'))
    fail(code, what, ": not a safetensors file: its header does not begin with '{'");
  // The JSON parser takes a zero byte for the end of its input and would not see what follows.
  if (text.find('\0') != std::string_view::npos) fail(code, what, ": a zero byte in the header");

  HeaderEvents events(what, code);
  Json::sax_parse(text.begin(), text.end(), &events);
  SafetensorsHeader header = events.take();
  check_names(header.entries, what, code);
  place_entries(header.entries, 8 + header_bytes, file_bytes, what, code);
  return header;
}

}  // namespace pyramoe
