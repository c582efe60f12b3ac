// Hostile safetensors files: each gives one clear Error, whatever the header claims.
#include <gtest/gtest.h>

#include <chrono>
#include <map>

#include "core/crc32c.h"
#include "core/safetensors.h"
#include "tests/core/temp_folder.h"

namespace pyramoe {
namespace {

std::string file_of(const std::string& header, int64_t data_bytes, uint64_t claimed_length) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>((claimed_length >> (8 * i)) & 255u);
  return file + header + std::string(static_cast<size_t>(data_bytes), '\1');
}
std::string file_of(const std::string& header, int64_t data_bytes) {
  return file_of(header, data_bytes, header.size());
}

SafetensorsHeader parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file)), "f.safetensors");
}

std::string error_of(const std::string& file) {
  try {
    parse(file);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::checkpoint);
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << file.substr(0, 200);
  return "";
}

struct Row {
  const char* header;
  int64_t data_bytes;
  const char* expected;
};

// Headers of one tensor "a" and of two, "a" and "b".
#define F4(offsets) "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":" offsets "}}"
#define U8(shape, offsets) \
  "{\"a\":{\"dtype\":\"U8\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define TWO(first, second)                                         \
  "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" first \
  "},"                                                             \
  "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" second "}}"

const Row kRows[] = {
    // not a header
    {"", 0, "does not begin with '{'"},
    {"[]", 0, "does not begin with '{'"},
    {" {}", 0, "does not begin with '{'"},
    {"\xef\xbb\xbf{}", 0, "does not begin with '{'"},
    {"null", 0, "does not begin with '{'"},
    {"{", 0, "not valid JSON"},
    {"{]", 0, "not valid JSON"},
    {"{}}", 0, "not valid JSON"},
    {"{} x", 0, "not valid JSON"},
    {"{},{}", 0, "not valid JSON"},
    {"{'a':1}", 0, "not valid JSON"},
    {"{\"a\" 1}", 0, "not valid JSON"},
    {"{\"a\":{},}", 0, "must have dtype, shape and data_offsets"},
    {"{\"a\"}", 0, "not valid JSON"},
    {"{\"a", 0, "not valid JSON"},
    {"{\"\xff\":{}}", 0, "not valid JSON"},
    {"{\"\xc0\x80\":{}}", 0, "not valid JSON"},
    {"{\"\xed\xa0\x80\":{}}", 0, "not valid JSON"},
    {"{\"\\ud800\":{}}", 0, "not valid JSON"},
    {"{\"a\nb\":{}}", 0, "not valid JSON"},
    {"{/* */}", 0, "not valid JSON"},
    {"{\"a\":NaN}", 0, "not valid JSON"},
    // wrong structure
    {"{\"a\":1}", 0, "\"a\" must be an object, got a number"},
    {"{\"a\":null}", 0, "must be an object, got null"},
    {"{\"a\":true}", 0, "must be an object, got true or false"},
    {"{\"a\":\"F32\"}", 0, "must be an object, got the text"},
    {"{\"a\":[]}", 0, "must be an object, got an array"},
    {"{\"a\":-1}", 0, "must be an object, got the negative number"},
    {"{\"a\":{}}", 0, "must have dtype, shape and data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "must have dtype, shape and data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "must have dtype"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "must have dtype"},
    {"{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "\"dtype\" cannot have"},
    {"{\"a\":{\"dtype\":null}}", 0, "\"dtype\" cannot have null"},
    {"{\"a\":{\"dtype\":[]}}", 0, "\"dtype\" cannot have an array"},
    {"{\"a\":{\"dtype\":{}}}", 0, "\"dtype\" cannot have an object"},
    {"{\"a\":{\"shape\":{}}}", 0, "\"shape\" cannot have an object"},
    {"{\"a\":{\"shape\":4}}", 0, "\"shape\" cannot have"},
    {"{\"a\":{\"shape\":\"4\"}}", 0, "\"shape\" cannot have the text"},
    {"{\"a\":{\"shape\":[[1]]}}", 0, "\"shape\" cannot have an array"},
    {"{\"a\":{\"shape\":[{}]}}", 0, "\"shape\" cannot have an object"},
    {"{\"a\":{\"shape\":[null]}}", 0, "\"shape\" cannot have null"},
    {"{\"a\":{\"shape\":[\"1\"]}}", 0, "\"shape\" cannot have the text"},
    {"{\"a\":{\"shape\":[true]}}", 0, "\"shape\" cannot have true or false"},
    {"{\"a\":{\"size\":[1]}}", 0, "an unknown field \"size\""},
    {"{\"a\":{\"\":1}}", 0, "an unknown field \"\""},
    {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 0, "\"dtype\" comes twice"},
    {"{\"a\":{\"shape\":[],\"shape\":[]}}", 0, "\"shape\" comes twice"},
    {"{\"a\":{\"data_offsets\":[0,1],\"data_offsets\":[0,1]}}", 1, "comes twice"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
     "\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
     0, "tensor \"a\" comes twice"},
    // metadata
    {"{\"__metadata__\":1}", 0, "must be an object, got a number"},
    {"{\"__metadata__\":[]}", 0, "must be an object, got an array"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "the metadata \"a\" must be a text, got a number"},
    {"{\"__metadata__\":{\"a\":null}}", 0, "must be a text, got null"},
    {"{\"__metadata__\":{\"a\":{}}}", 0, "must be a text, got an object"},
    {"{\"__metadata__\":{\"a\":[\"b\"]}}", 0, "must be a text, got an array"},
    {"{\"__metadata__\":{\"a\":\"b\",\"a\":\"c\"}}", 0, "\"a\" comes twice"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__ comes twice"},
    // dtypes
    {"{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "\"F33\" is unknown"},
    {"{\"a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "\"f32\" is unknown"},
    {"{\"a\":{\"dtype\":\"\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "\"\" is unknown"},
    // shapes
    {U8("[-1]", "[0,1]"), 1, "the negative number -1"},
    {U8("[-0]", "[0,0]"), 0, "the negative number"},
    {U8("[1.0]", "[0,1]"), 1, "no whole number"},
    {U8("[1e0]", "[0,1]"), 1, "no whole number"},
    {U8("[9223372036854775808]", "[0,1]"), 1, "the number 9223372036854775808"},
    {U8("[18446744073709551616]", "[0,0]"), 0, "no whole number"},
    {U8("[1e999]", "[0,0]"), 0, "not valid JSON"},
    {U8("[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, "more than 8 axes"},
    {U8("[4294967296,4294967296]", "[0,0]"), 0, "overflows"},      // 2^64: wraps to 0
    {U8("[4294967297,4294967297]", "[0,1]"), 1, "overflows"},      // wraps to small
    {U8("[4611686018427387904,4,2,0]", "[0,0]"), 0, "overflows"},  // a zero hides nothing
    {U8("[0,4611686018427387904,4]", "[0,0]"), 0, "overflows"},
    {"{\"a\":{\"dtype\":\"F64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]}}", 0,
     "overflows"},
    {U8("[3]", "[0,4]"), 4, "takes 3 bytes, data_offsets give it 4"},
    {U8("[5]", "[0,4]"), 4, "takes 5 bytes, data_offsets give it 4"},
    {U8("[0]", "[0,4]"), 4, "takes 0 bytes"},
    {U8("[]", "[0,0]"), 0, "takes 1 bytes"},
    {F4("[0,1]"), 1, "takes 4 bytes"},
    {F4("[0,8]"), 8, "takes 4 bytes"},
    // offsets
    {F4("[]"), 4, "data_offsets must be two numbers"},
    {F4("[0]"), 4, "data_offsets must be two numbers"},
    {F4("[0,4,8]"), 4, "data_offsets has more than two numbers"},
    {F4("4"), 4, "\"data_offsets\" cannot have"},
    {F4("[\"0\",\"4\"]"), 4, "\"data_offsets\" cannot have the text"},
    {F4("[0.0,4.0]"), 4, "no whole number"},
    {F4("[-4,0]"), 4, "the negative number -4"},
    {F4("[4,0]"), 4, "run backwards"},
    {F4("[0,18446744073709551615]"), 4, "the number 18446744073709551615"},
    {F4("[18446744073709551612,0]"), 4, "the number"},  // a difference that wraps to 4
    {F4("[9223372036854775803,9223372036854775807]"), 4, "leaving a hole"},
    {F4("[0,4]"), 3, "it was cut short"},
    {F4("[0,4]"), 0, "it was cut short"},
    {F4("[0,4]"), 5, "the header describes 4 bytes of tensors, the file has 5"},
    {F4("[1,5]"), 5, "leaving a hole"},
    {"{}", 1, "the header describes 0 bytes"},
    {"{\"__metadata__\":{}}", 1, "the header describes 0 bytes"},
    {TWO("[0,4]", "[0,4]"), 4, "inside the one before"},
    {TWO("[0,4]", "[3,7]"), 7, "inside the one before"},
    {TWO("[0,4]", "[5,9]"), 9, "leaving a hole"},
    {TWO("[4,8]", "[8,12]"), 12, "leaving a hole"},
    {TWO("[0,4]", "[4,8]"), 7, "it was cut short"},
    {TWO("[0,4]", "[4,8]"), 9, "the file has 9"},
};

TEST(HostileSafetensors, EveryRowGivesItsMessage) {
  EXPECT_GE(std::size(kRows), 100u);
  for (const Row& row : kRows) {
    const std::string text = error_of(file_of(row.header, row.data_bytes));
    EXPECT_NE(text.find(row.expected), std::string::npos)
        << row.header << "\n  said:     " << text << "\n  expected: " << row.expected;
    EXPECT_TRUE(text.starts_with("f.safetensors: ")) << text;
  }
}

// The rows differ from these by one fault each.
TEST(HostileSafetensors, TheirInnocentNeighboursAreAccepted) {
  EXPECT_EQ(parse(file_of("{}", 0)).entries.size(), 0u);
  EXPECT_EQ(parse(file_of("{}   \n\t ", 0)).entries.size(), 0u);
  EXPECT_EQ(parse(file_of(F4("[0,4]"), 4)).entries.size(), 1u);
  EXPECT_EQ(parse(file_of(U8("[]", "[0,1]"), 1)).entries[0].shape, Shape{});
  EXPECT_EQ(parse(file_of(U8("[1,1,1,1,1,1,1,1]", "[0,1]"), 1)).entries.size(), 1u);
  EXPECT_EQ(parse(file_of(U8("[0,4611686018427387904]", "[0,0]"), 0)).entries.size(), 1u);
  EXPECT_EQ(parse(file_of(TWO("[4,8]", "[0,4]"), 8)).entries[0].name, "b");
  EXPECT_EQ(parse(file_of("{\"__metadata__\":{\"a\":\"b\"}}", 0)).metadata.at("a"), "b");
  const std::string name(static_cast<size_t>(kSafetensorsMaxName), 'n');
  const auto named = [](const std::string& text) {
    return file_of("{\"" + text + "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
  };
  EXPECT_EQ(parse(named(name)).entries[0].name, name);
  EXPECT_NE(error_of(named(name + "n")).find("name of 513 bytes"), std::string::npos);
}

TEST(HostileSafetensors, LengthsThatLie) {
  const std::string header = F4("[0,4]");
  const uint64_t size = header.size();
  const std::pair<uint64_t, const char*> cases[] = {
      {0, "does not begin with '{'"},
      {1, "not valid JSON"},
      {size - 1, "not valid JSON"},
      {size + 1, "not valid JSON"},
      {size + 4, "not valid JSON"},
      {size + 5, "cut short or is no safetensors file"},
      {100'000'000, "cut short or is no safetensors file"},
      {100'000'001, "at most 100000000 are allowed"},
      {uint64_t{1} << 63, "at most"},
      {UINT64_MAX, "at most"},
      {UINT64_MAX - 7, "at most"},
      {UINT64_MAX - 4, "at most"}};
  for (const auto& [claimed, expected] : cases) {
    const std::string text = error_of(file_of(header, 4, claimed));
    EXPECT_NE(text.find(expected), std::string::npos) << claimed << ": " << text;
  }
  for (size_t length = 0; length < 8; ++length)
    EXPECT_NE(error_of(std::string(length, '\0')).find("too few"), std::string::npos);
}

TEST(HostileSafetensors, AZeroByteHidesNothing) {
  std::string header = "{}";
  header += '\0';
  header += "garbage";
  EXPECT_NE(error_of(file_of(header, 0)).find("a zero byte"), std::string::npos);
}

TEST(HostileSafetensors, NamesInMessagesCannotHarmATerminal) {
  const std::string text = error_of(file_of("{\"\\u001b[2J\\u0007\":1}", 0));
  EXPECT_NE(text.find("\\x1b[2J\\x07"), std::string::npos) << text;
}

// Time stays near linear: a second per megabyte would be far too long.
TEST(HostileSafetensors, LargeHeadersAreCheap) {
  const std::string tensor = ":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
  std::string many = "{";
  for (int i = 0; i < 100000; ++i) many += cat(i ? "," : "", "\"t", i, "\"", tensor);
  many += "}";
  std::string deep = "{\"a\":";
  for (int i = 0; i < 1000000; ++i) deep += "[";
  std::string metadata = "{\"__metadata__\":{";
  for (int i = 0; i < 100000; ++i) metadata += cat(i ? "," : "", "\"k", i, "\":\"v\"");
  metadata += "}}";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(parse(file_of(many, 0)).entries.size(), 100000u);
  EXPECT_EQ(parse(file_of(metadata, 0)).metadata.size(), 100000u);
  error_of(file_of(deep, 0));
  error_of(file_of(std::string(5000000, '{'), 0));
  error_of(file_of("{\"" + std::string(5000000, 'n') + "\":1}", 0));
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  EXPECT_LT(time.count(), 20.0);  // seconds, also with sanitizers on a slow machine
}

std::string small_file() {
  const TempFolder folder;
  write_safetensors(folder / "f",
                    {{"wte", Tensor::zeros({4, 3}, DType::f32)},
                     {"h.0.b", Tensor::zeros({5}, DType::bf16)},
                     {"empty", Tensor::zeros({0, 2}, DType::f64)}},
                    {{"format", "pt"}});
  return read_file(folder / "f");
}

TEST(HostileSafetensors, EveryTruncationIsAnError) {
  const std::string file = small_file();
  for (size_t length = 0; length < file.size(); ++length) error_of(file.substr(0, length));
}

// A flipped bit in the header is an Error, or gives a header that still obeys every rule (a letter
// of a name, say); which of these is a change, the file's checksum tells.
TEST(HostileSafetensors, EveryBitFlipIsAnErrorOrStillARightHeader) {
  const std::string file = small_file();
  const uint32_t crc = crc32c(file);
  const auto data_begin = static_cast<size_t>(8 + static_cast<unsigned char>(file[0]) +
                                              256 * static_cast<unsigned char>(file[1]));
  int64_t errors = 0;
  int64_t accepted = 0;
  for (size_t bit = 0; bit < 8 * file.size(); ++bit) {
    std::string flipped = file;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    ASSERT_NE(crc32c(flipped), crc);
    if (bit / 8 >= data_begin) continue;
    try {
      const SafetensorsHeader header = parse(flipped);
      auto next = static_cast<int64_t>(data_begin);
      for (const SafetensorsEntry& entry : header.entries) {
        ASSERT_EQ(entry.begin, next);
        ASSERT_LE(entry.end, static_cast<int64_t>(file.size()));
        ASSERT_TRUE(!entry.type || entry.bytes() == numel(entry.shape) * size_of(*entry.type));
        next = entry.end;
      }
      ASSERT_EQ(next, static_cast<int64_t>(file.size()));
      ++accepted;
    } catch (const Error&) {
      ++errors;
    }
  }
  EXPECT_GT(errors, accepted);
}

}  // namespace
}  // namespace pyramoe
