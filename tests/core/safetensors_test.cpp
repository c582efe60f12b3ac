// safetensors files: what is written is read back, in the layout that every other tool expects.
#include "core/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/crc32c.h"
#include "core/file_ops.h"
#include "tests/core/temp_folder.h"

namespace pyramoe {
namespace {

Tensor counted(Shape shape, DType dtype) {
  Tensor tensor(std::move(shape), dtype);
  auto* bytes = static_cast<unsigned char*>(tensor.raw());
  for (int64_t i = 0; i < tensor.bytes(); ++i) bytes[i] = static_cast<unsigned char>(i * 37 + 11);
  return tensor;
}

std::string bytes_of(const Tensor& tensor) {
  const auto* begin = static_cast<const char*>(tensor.raw());
  return begin ? std::string(begin, static_cast<size_t>(tensor.bytes())) : "";
}

std::vector<std::pair<std::string, Tensor>> one_of_each() {
  return {{"u8", counted({3}, DType::u8)},         {"b", counted({2, 5}, DType::bf16)},
          {"i32", counted({1, 2, 3}, DType::i32)}, {"w.1", counted({4, 3}, DType::f32)},
          {"w.0", counted({4, 3}, DType::f32)},    {"scalar", counted({}, DType::f64)},
          {"i64", counted({2}, DType::i64)},       {"empty", counted({0, 7}, DType::f32)}};
}

TEST(Safetensors, WhatIsWrittenIsReadBack) {
  const TempFolder folder;
  const auto tensors = one_of_each();
  const SafetensorsMetadata metadata{{"format", "pt"}, {"ключ", "a \"quoted\"\n\\ text"}};
  const SavedFile saved = write_safetensors(folder / "f", tensors, metadata);
  const std::string bytes = read_file(folder / "f");
  EXPECT_EQ(saved.bytes, static_cast<int64_t>(bytes.size()));
  EXPECT_EQ(saved.crc, crc32c(bytes));

  const SafetensorsReader reader(folder / "f");
  EXPECT_EQ(reader.metadata(), metadata);
  ASSERT_EQ(reader.entries().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const SafetensorsEntry& entry = reader.at(name);
    EXPECT_EQ(entry.shape, tensor.shape()) << name;
    EXPECT_EQ(entry.type, tensor.dtype()) << name;
    EXPECT_EQ(entry.begin % size_of(tensor.dtype()), 0) << name;
    const Tensor back = reader.tensor(name);
    EXPECT_EQ(bytes_of(back), bytes_of(tensor)) << name;
  }
  EXPECT_EQ(reader.find("w.2"), nullptr);
  EXPECT_THROW(reader.at("w.2"), Error);
}

TEST(Safetensors, SavedTwiceTheBytesAreTheSame) {
  const TempFolder folder;
  auto tensors = one_of_each();
  write_safetensors(folder / "a", tensors);
  std::reverse(tensors.begin(), tensors.end());
  write_safetensors(folder / "b", tensors);
  EXPECT_EQ(read_file(folder / "a"), read_file(folder / "b"));
}

// The exact bytes that the format's reference writer makes of the same tensors.
TEST(Safetensors, LayoutIsTheReferenceWritersByteForByte) {
  const TempFolder folder;
  const Tensor a = Tensor::from(std::vector<float>{1, 2}, {2});
  const Tensor b = Tensor::from(std::vector<int64_t>{3}, {1});
  const Tensor c = Tensor::from(std::vector<uint8_t>{4, 5, 6}, {3, 1});
  write_safetensors(folder / "f", {{"a", a}, {"c", c}, {"b", b}}, {{"format", "pt"}});
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
      R"("a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},)"
      R"("c":{"dtype":"U8","shape":[3,1],"data_offsets":[16,19]}})";
  const size_t padded = (header.size() + 7) / 8 * 8;
  std::string expected{static_cast<char>(padded)};
  expected.append(7, '\0');
  expected += header;
  expected.append(padded - header.size(), ' ');
  expected.append("\3\0\0\0\0\0\0\0\0\0\x80\x3f\0\0\0\x40\4\5\6", 19);
  EXPECT_EQ(read_file(folder / "f"), expected);
}

TEST(Safetensors, NoTensorsAtAll) {
  const TempFolder folder;
  write_safetensors(folder / "f", std::vector<SafetensorsItem>{});
  EXPECT_EQ(SafetensorsReader(folder / "f").entries().size(), 0u);
  EXPECT_EQ(file_bytes(folder / "f"), 16);
}

TEST(Safetensors, StreamsTensorsInPieces) {
  const TempFolder folder;
  {
    SafetensorsWriter writer(folder / "f", {{"x", DType::u8, {3}}, {"y", DType::f32, {1}}});
    EXPECT_EQ(writer.order()[0].name, "y");
    const float one = 1;
    writer.write(&one, 4);
    writer.write("ab", 2);
    EXPECT_FALSE(path_exists(folder / "f"));
    EXPECT_THROW(writer.commit(), Error);  // a byte is missing
    EXPECT_FALSE(path_exists(folder / "f"));
    writer.write("c", 1);
    writer.commit();
  }
  EXPECT_EQ(SafetensorsReader(folder / "f").tensor("x").to_vector(),
            (std::vector<double>{'a', 'b', 'c'}));
}

TEST(Safetensors, RefusesToWriteWhatNoReaderAccepts) {
  const TempFolder folder;
  const Tensor x = counted({1}, DType::f32);
  using Tensors = std::vector<std::pair<std::string, Tensor>>;
  EXPECT_THROW(write_safetensors(folder / "f", Tensors{{"x", x}, {"x", x}}), Error);
  EXPECT_THROW(write_safetensors(folder / "f", Tensors{{"__metadata__", x}}), Error);
  EXPECT_THROW(write_safetensors(folder / "f", Tensors{{std::string(513, 'x'), x}}), Error);
  EXPECT_THROW(write_safetensors(folder / "f", Tensors{{"\xff", x}}), Error);
  EXPECT_THROW(write_safetensors(folder / "f", Tensors{{"x", counted(Shape(9, 1), DType::u8)}}),
               Error);
  EXPECT_TRUE(list_folder(folder.path()).empty());
}

TEST(Safetensors, HalfBecomesFloatExactly) {
  EXPECT_EQ(half_to_float(0x3c00), 1.0f);
  EXPECT_EQ(half_to_float(0xc000), -2.0f);
  EXPECT_EQ(half_to_float(0x7bff), 65504.0f);
  EXPECT_EQ(half_to_float(0x0001), 0x1p-24f);
  EXPECT_EQ(half_to_float(0x83ff), -1023 * 0x1p-24f);
  EXPECT_EQ(half_to_float(0x0400), 0x1p-14f);
  EXPECT_EQ(half_to_float(0x7c00), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(half_to_float(0x7e00)));
  EXPECT_TRUE(std::signbit(half_to_float(0x8000)));
  // The definition: (-1)^s * 2^(e - 15) * 1.f, for every normal half.
  for (int bits = 0x0400; bits < 0x7c00; ++bits)
    ASSERT_EQ(half_to_float(static_cast<uint16_t>(bits)),
              std::ldexp(static_cast<float>(1024 + (bits & 1023)), (bits >> 10) - 25));
}

TEST(Safetensors, HalvesAreReadAsFloatsAndForeignTypesRefused) {
  const TempFolder folder;
  std::string header = R"({"h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},)"
                       R"("m":{"dtype":"BOOL","shape":[1],"data_offsets":[4,5]}})";
  std::string file{static_cast<char>(header.size())};
  file.append(7, '\0');
  file += header + std::string("\0\x3c\0\xc0\1", 5);
  write_file(folder / "f", file);
  const SafetensorsReader reader(folder / "f");
  EXPECT_EQ(reader.at("h").dtype, "F16");
  EXPECT_FALSE(reader.at("h").type.has_value());
  EXPECT_EQ(reader.tensor("h").to_vector(), (std::vector<double>{1, -2}));
  EXPECT_EQ(reader.bytes(reader.at("m")).size(), 1u);
  EXPECT_THROW(reader.tensor("m"), Error);
}

TEST(Safetensors, AFileThatShrinksIsAnErrorNotASignal) {
  const TempFolder folder;
  write_safetensors(folder / "f", {{"x", counted({100000}, DType::f32)}});
  const SafetensorsReader reader(folder / "f");
  std::filesystem::resize_file(folder / "f", 200);
  EXPECT_THROW(reader.tensor("x"), Error);
}

TEST(Safetensors, AFullDiskLeavesTheOldFile) {
  const TempFolder folder;
  write_safetensors(folder / "f", {{"x", counted({10}, DType::f32)}});
  const std::string before = read_file(folder / "f");
  for (int64_t n = 1;; ++n) {
    set_fault_plan({n, FaultKind::enospc, true});
    bool failed = false;
    try {
      write_safetensors(folder / "f", {{"x", counted({200000}, DType::f32)}});
    } catch (const Error& error) {
      failed = true;
      EXPECT_EQ(error.code(), Exit::checkpoint);
    }
    const bool renamed = read_file(folder / "f") != before;
    clear_fault_plan();
    remove_temp_files(folder.path());  // a disk that stays full may refuse even the removal
    if (!failed) break;
    // Only a failure of the last step, the flush of the folder, comes after the new name.
    EXPECT_TRUE(!renamed || SafetensorsReader(folder / "f").entries().size() == 1);
  }
}

}  // namespace
}  // namespace pyramoe
