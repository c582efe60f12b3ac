// Any bytes through a small vocabulary: no byte is lost, and ids are below the vocabulary's size.
#include "data/bpe.h"
#include "data/byte_alphabet.h"
#include "tests/fuzz/fuzz.h"

namespace {

// The 256 bytes and merges of pairs that are common in text, or hard: repeats, blanks, UTF-8.
pyramoe::data::Bpe small_vocabulary() {
  using namespace pyramoe::data;
  std::vector<std::string> names;
  for (const uint8_t byte : bytes_in_gpt2_order())
    names.push_back(to_alphabet(std::string(1, static_cast<char>(byte))));
  std::vector<Merge> merges;
  const auto id_of = [&](const std::string& name) {
    for (size_t i = 0; i < names.size(); ++i)
      if (names[i] == name) return static_cast<int32_t>(i);
    std::abort();
  };
  const char* const pairs[][2] = {{"a", "a"},  {"aa", "aa"}, {" ", " "},       {" ", "t"},
                                  {"h", "e"},  {" t", "he"}, {"i", "n"},       {"in", "g"},
                                  {"'", "s"},  {"1", "2"},   {"\xe2", "\x82"}, {"\xe2\x82", "\xac"},
                                  {"\n", "\n"}};
  for (const auto& pair : pairs) {
    const std::string left = to_alphabet(pair[0]);
    const std::string right = to_alphabet(pair[1]);
    merges.emplace_back(id_of(left), id_of(right));
    names.push_back(left + right);
  }
  names.push_back(kEndOfText);
  return {names, merges};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pyramoe;
  static const data::Bpe bpe = small_vocabulary();
  const std::string text(reinterpret_cast<const char*>(data), size);
  for (const bool with_special : {false, true}) {
    const std::vector<int32_t> ids = bpe.encode(text, with_special);
    for (const int32_t id : ids)
      require(id >= 0 && id < bpe.vocab_size(), "ids are below the vocabulary's size");
    require(bpe.decode(ids) == text, "decode(encode(bytes)) == bytes");
  }
  return 0;
}
