// Reading tensors out of a mapped safetensors file, and writing new files.
#include "core/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "core/json.h"

namespace pyramoe {

static_assert(std::endian::native == std::endian::little, "safetensors bytes are little endian");

float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 31u;
  const uint32_t fraction = half & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // zero or subnormal: exact
  return sign ? -magnitude : magnitude;
}

// ---- Reader

SafetensorsReader::SafetensorsReader(const std::string& path, Exit code)
    : file_(path, code, MappedFile::Access::sequential), code_(code) {
  header_ = parse_safetensors({file_.data(), static_cast<size_t>(file_.size())}, path, code);
  by_name_.resize(header_.entries.size());
  std::iota(by_name_.begin(), by_name_.end(), size_t{0});
  std::sort(by_name_.begin(), by_name_.end(),
            [&](size_t a, size_t b) { return entries()[a].name < entries()[b].name; });
}

const SafetensorsEntry* SafetensorsReader::find(std::string_view name) const {
  const auto place =
      std::lower_bound(by_name_.begin(), by_name_.end(), name,
                       [&](size_t i, std::string_view other) { return entries()[i].name < other; });
  if (place == by_name_.end() || entries()[*place].name != name) return nullptr;
  return &entries()[*place];
}

const SafetensorsEntry& SafetensorsReader::at(std::string_view name) const {
  const SafetensorsEntry* entry = find(name);
  if (!entry)
    fail(code_, path(), " has no tensor ", quoted(name), " among its ", entries().size(),
         "; is it a file of another model?");
  return *entry;
}

std::span<const std::byte> SafetensorsReader::bytes(const SafetensorsEntry& entry) const {
  file_.check_unchanged();
  return file_.bytes(entry.begin, entry.bytes());
}

Tensor SafetensorsReader::tensor(const SafetensorsEntry& entry) const {
  const std::span<const std::byte> source = bytes(entry);
  if (entry.type) {
    Tensor result(entry.shape, *entry.type);
    if (!source.empty()) std::memcpy(result.raw(), source.data(), source.size());
    return result;
  }
  if (entry.dtype != "F16")
    fail(code_, path(), ": tensor ", quoted(entry.name), " has dtype ", entry.dtype,
         ", which pyramoe does not compute with (F64, F32, F16, BF16, I64, I32, U8 are)");
  Tensor result(entry.shape, DType::f32);
  float* out = result.data<float>();
  for (size_t i = 0; i < source.size() / 2; ++i) {
    uint16_t half;
    std::memcpy(&half, source.data() + 2 * i, 2);
    out[i] = half_to_float(half);
  }
  return result;
}

// ---- Writer

namespace {

struct DTypeName {
  const char* name;
  int order;  // place among the format's types, which its reference writer sorts by
};

DTypeName name_of(DType type) {
  switch (type) {
    case DType::u8:
      return {"U8", 0};
    case DType::bf16:
      return {"BF16", 1};
    case DType::i32:
      return {"I32", 2};
    case DType::f32:
      return {"F32", 3};
    case DType::f64:
      return {"F64", 4};
    case DType::i64:
      return {"I64", 5};
  }
  fail(Exit::bug, "safetensors: no such dtype");
}

// Descending alignment, so that every tensor begins at a multiple of its element size.
template <class Item>
void sort_for_writing(std::vector<Item>& items) {
  std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    const int first = name_of(a.dtype).order;
    const int second = name_of(b.dtype).order;
    return first != second ? first > second : a.name < b.name;
  });
}

int64_t bytes_of(const SafetensorsSpec& spec) {
  int64_t bytes = 0;
  PM_CHECK(!__builtin_mul_overflow(numel(spec.shape), size_of(spec.dtype), &bytes),
           "safetensors: tensor ", spec.name, " ", to_string(spec.shape), " overflows 63 bits");
  return bytes;
}

void check_specs(const std::vector<SafetensorsSpec>& specs, const std::string& path) {
  std::vector<std::string_view> names;
  for (const SafetensorsSpec& spec : specs) {
    PM_CHECK(static_cast<int64_t>(spec.name.size()) <= kSafetensorsMaxName,
             "safetensors: the name ", quoted(spec.name), " is longer than ", kSafetensorsMaxName);
    PM_CHECK(static_cast<int64_t>(spec.shape.size()) <= kSafetensorsMaxRank, "safetensors: tensor ",
             spec.name, " has more than ", kSafetensorsMaxRank, " axes");
    PM_CHECK(spec.name != "__metadata__", "safetensors: a tensor cannot be named __metadata__");
    names.push_back(spec.name);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  PM_CHECK(twice == names.end(), "safetensors: tensor ", *twice, " comes twice in ", path);
}

// Throws on text that is not UTF-8, which no reader would accept.
std::string json_text(const std::string& text) {
  try {
    return Json(text).dump();
  } catch (const Json::exception&) {
    fail(Exit::bug, "safetensors: ", quoted(text), " is not UTF-8");
  }
}

// Length, JSON, spaces up to a multiple of 8.
std::string header_text(const std::vector<SafetensorsSpec>& specs,
                        const SafetensorsMetadata& metadata) {
  std::string json = "{";
  if (!metadata.empty()) {
    json += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) json += json_text(key) + ":" + json_text(value) + ",";
    json.back() = '}';
    json += ",";
  }
  int64_t begin = 0;
  for (const SafetensorsSpec& spec : specs) {
    const int64_t end = begin + bytes_of(spec);
    json += cat(json_text(spec.name), ":{\"dtype\":\"", name_of(spec.dtype).name, "\",\"shape\":[");
    for (size_t i = 0; i < spec.shape.size(); ++i) json += cat(i ? "," : "", spec.shape[i]);
    json += cat("],\"data_offsets\":[", begin, ",", end, "]},");
    begin = end;
  }
  if (json.size() > 1) json.pop_back();
  json += "}";
  json.append((8 - json.size() % 8) % 8, ' ');
  PM_CHECK(static_cast<int64_t>(json.size()) <= kSafetensorsMaxHeader, "safetensors: a header of ",
           json.size(), " bytes is more than readers accept");
  std::string text;
  for (size_t i = 0; i < 8; ++i) text += static_cast<char>((json.size() >> (8 * i)) & 255u);
  return text + json;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<SafetensorsSpec> specs,
                                     const SafetensorsMetadata& metadata, Exit code)
    : file_(path, code), specs_(std::move(specs)) {
  check_specs(specs_, path);
  sort_for_writing(specs_);
  const std::string header = header_text(specs_, metadata);
  expected_ = static_cast<int64_t>(header.size());
  for (const SafetensorsSpec& spec : specs_) expected_ += bytes_of(spec);
  check_free_space(path, expected_, code);
  file_.write(header);
}

SavedFile SafetensorsWriter::commit() {
  PM_CHECK(file_.bytes() == expected_, "safetensors: ", file_.bytes(),
           " bytes were written, the header promises ", expected_);
  file_.commit();
  return {file_.bytes(), file_.crc()};
}

SavedFile write_safetensors(const std::string& path, std::vector<SafetensorsItem> items,
                            const SafetensorsMetadata& metadata, Exit code) {
  sort_for_writing(items);
  std::vector<SafetensorsSpec> specs;
  for (const SafetensorsItem& item : items) specs.push_back({item.name, item.dtype, item.shape});
  SafetensorsWriter writer(path, specs, metadata, code);
  for (size_t i = 0; i < items.size(); ++i) writer.write(items[i].data, bytes_of(specs[i]));
  return writer.commit();
}

SavedFile write_safetensors(const std::string& path,
                            const std::vector<std::pair<std::string, Tensor>>& tensors,
                            const SafetensorsMetadata& metadata, Exit code) {
  std::vector<SafetensorsSpec> specs;
  std::map<std::string_view, Tensor> by_name;
  for (const auto& [name, tensor] : tensors) {
    specs.push_back({name, tensor.dtype(), tensor.shape()});
    by_name.emplace(name, tensor);
  }
  SafetensorsWriter writer(path, std::move(specs), metadata, code);
  for (const SafetensorsSpec& spec : writer.order()) {
    const Tensor host = by_name.at(spec.name).to(kCpu);
    writer.write(host.raw(), host.bytes());
  }
  return writer.commit();
}

}  // namespace pyramoe
