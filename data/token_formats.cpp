// The parsers of the four formats. docs/formats-data.md has their tables.
#include "data/token_formats.h"

#include "core/crc32c.h"

namespace pyramoe::data {
namespace {

constexpr const char* kAgain = "; fetch or prepare the file again";

// The checks of the last bytes; returns where the documents start.
int64_t check_own_size(const MappedFile& file, TokenLayout& layout, uint64_t tokens,
                       uint64_t documents) {
  const std::string& path = file.path();
  const auto room = static_cast<uint64_t>(file.size() - kTokenHeaderBytes - kTokenTrailerBytes);
  const auto width = static_cast<uint64_t>(size_of(layout.type));
  if (tokens == 0) fail_token_file(path, "it says it holds 0 tokens", kAgain);
  if (tokens > room / width || documents > tokens || documents > room / 8) {
    fail_token_file(path, "it says ", tokens, " tokens in ", documents, " documents, but has ",
                    room, " bytes for them", kAgain);
  }
  const uint64_t padded = (tokens * width + 7) / 8 * 8;
  if (padded + documents * 8 != room) {
    fail_token_file(path, "expected ", padded + documents * 8,
                    " bytes of tokens and documents, has ", room, kAgain);
  }
  layout.tokens = static_cast<int64_t>(tokens);
  return layout.offset + static_cast<int64_t>(padded);
}

}  // namespace

bool is_own_format(const MappedFile& file) {
  const std::string_view text = file.text();
  return text.starts_with(kTokenMagic) || std::string_view(kTokenMagic).starts_with(text);
}

TokenLayout parse_own(const MappedFile& file, bool verify) {
  const std::string& path = file.path();
  if (file.size() < kTokenHeaderBytes + kTokenTrailerBytes) {
    fail_token_file(path, "a token file cut off after ", file.size(), " bytes", kAgain);
  }
  const auto version = load_at<uint32_t>(file, 8);
  const std::string_view header = file.text().substr(0, kTokenHeaderBytes - 4);
  if (load_at<uint32_t>(file, kTokenHeaderBytes - 4) != crc32c(header)) {
    fail_token_file(path, "the header is damaged (its checksum does not fit)", kAgain);
  }
  if (version != 1) {
    fail_token_file(path, "token file version ", version,
                    "; this program reads version 1: use a newer pyramoe or prepare it again");
  }
  TokenLayout layout;
  const auto width = load_at<uint32_t>(file, 12);
  if (width != 2 && width != 4) {
    fail_token_file(path, "tokens of ", width, " bytes; expected 2 or 4", kAgain);
  }
  layout.type = width == 2 ? TokenType::u16 : TokenType::u32;
  layout.offset = kTokenHeaderBytes;
  const auto vocab = load_at<uint64_t>(file, 16);
  if (vocab == 0 || vocab > 0x7fffffff) {
    fail_token_file(path, "vocabulary size ", vocab, "; expected 1 to 2147483647", kAgain);
  }
  layout.vocab_size = static_cast<int64_t>(vocab);
  layout.tokenizer_hash = load_at<uint64_t>(file, 24);

  const int64_t trailer = file.size() - kTokenTrailerBytes;
  const std::string_view tail = file.text().substr(static_cast<size_t>(trailer));
  if (tail.substr(24, 8) != kTokenEndMagic || load_at<uint32_t>(file, trailer + 36) != 0 ||
      load_at<uint32_t>(file, trailer + 32) != crc32c(tail.substr(0, 32))) {
    fail_token_file(path, "the end is missing or damaged: the file was cut off or changed", kAgain);
  }
  const auto count = load_at<uint64_t>(file, trailer + 8);
  const int64_t starts = check_own_size(file, layout, load_at<uint64_t>(file, trailer), count);
  if (verify && crc32c(file.text().substr(0, static_cast<size_t>(trailer))) !=
                    load_at<uint32_t>(file, trailer + 16)) {
    fail_token_file(path, "the tokens are damaged (their checksum does not fit)", kAgain);
  }
  uint64_t before = 0;
  for (uint64_t d = 0; d < count; ++d) {
    const auto start = load_at<uint64_t>(file, starts + static_cast<int64_t>(d) * 8);
    if ((d > 0 && start <= before) || start >= static_cast<uint64_t>(layout.tokens)) {
      fail_token_file(path, "document ", d, " starts at token ", start, ", after one at ", before,
                      ", of ", layout.tokens, kAgain);
    }
    before = start;
    layout.documents.push_back(static_cast<int64_t>(start));
  }
  return layout;
}

bool is_llmc(const MappedFile& file) {
  if (file.size() < 4) return false;
  const auto magic = load_at<int32_t>(file, 0);
  if (magic == 20240520 || magic == 20240801) return true;
  // A header whose magic was damaged would pass for nanoGPT's bare tokens: 253 zero words tell.
  if (file.size() < 1024) return false;
  for (int64_t word = 3; word < 256; ++word) {
    if (load_at<int32_t>(file, word * 4) != 0) return false;
  }
  return load_at<int32_t>(file, 8) != 0;
}

TokenLayout parse_llmc(const MappedFile& file) {
  const std::string& path = file.path();
  const auto magic = load_at<int32_t>(file, 0);
  if (magic != 20240520 && magic != 20240801) {
    fail_token_file(path, "looks like an llm.c file with magic ", magic,
                    "; expected 20240520 (u16) or 20240801 (u32)", kAgain);
  }
  if (file.size() < 1024) {
    fail_token_file(path, "an llm.c header has 1024 bytes, the file has ", file.size(), kAgain);
  }
  const bool wide = magic == 20240801;
  const int32_t expected = wide ? 7 : 1;
  const auto version = load_at<int32_t>(file, 4);
  if (version != expected) {
    fail_token_file(path, "llm.c magic ", magic, " with version ", version, "; expected ", expected,
                    kAgain);
  }
  TokenLayout layout;
  layout.format = TokenFormat::llmc;
  layout.type = wide ? TokenType::u32 : TokenType::u16;
  layout.offset = 1024;
  layout.tokens = load_at<int32_t>(file, 8);
  const int64_t wanted = 1024 + layout.tokens * size_of(layout.type);
  if (layout.tokens <= 0 || wanted != file.size()) {
    fail_token_file(path, "its llm.c header says ", layout.tokens, " tokens (", wanted,
                    " bytes in all), the file has ", file.size(), kAgain);
  }
  return layout;
}

TokenLayout parse_nanogpt(const MappedFile& file) {
  if (file.size() % 2 != 0) {
    fail_token_file(file.path(), "nanoGPT's .bin holds two bytes a token, but the file has ",
                    file.size(), " bytes, an odd number", kAgain);
  }
  TokenLayout layout;
  layout.format = TokenFormat::nanogpt;
  layout.tokens = file.size() / 2;
  return layout;
}

}  // namespace pyramoe::data
