// Tokens on disk: our own file format, and one way to read it and the formats of others.
//
// A token file ("PMTOKENS", docs/formats-data.md) is a header, the tokens as u16 or u32, where each
// document starts, and a trailer with counts and a checksum of everything before it. It is written
// in one pass through core/file, so it is there whole or not at all, and mapped when read. A file
// that lies about itself is refused when it is opened; a token outside the vocabulary is refused
// when it is read.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"

namespace pyramoe::data {

enum class TokenType : uint8_t { u8, i8, u16, i16, u32, i32, i64 };
int64_t size_of(TokenType type);
const char* to_string(TokenType type);

enum class TokenFormat : uint8_t { pyramoe, nanogpt, llmc, megatron };
const char* to_string(TokenFormat format);

// Where the tokens lie in a file, as its header or index says.
struct TokenLayout {
  TokenFormat format = TokenFormat::pyramoe;
  TokenType type = TokenType::u16;
  int64_t offset = 0;  // of the first token, in bytes
  int64_t tokens = 0;
  int64_t vocab_size = 0;          // 0: the format does not say
  uint64_t tokenizer_hash = 0;     // 0: the format does not say
  std::vector<int64_t> documents;  // first token of each; empty: the format does not say
};

class TokenFile {
 public:
  // Opens any of:
  //   FILE        our own format, known by its first bytes
  //   FILE.bin    llm.c (magic 20240520 or 20240801), else nanoGPT's bare little-endian u16
  //   FILE.idx    Megatron's index; also FILE.bin when FILE.idx lies beside it
  // Throws Error(data) that names the file, what was expected, what came and what to do.
  //   verify  read all of our own file once and compare its checksum
  explicit TokenFile(const std::string& path, bool verify = true);

  // Tokens [begin, begin + out.size()). Throws Error(data) with file and index if one of them is
  // not in [0, vocab).
  void read(int64_t begin, std::span<int32_t> out, int64_t vocab) const;

  int64_t tokens() const { return layout_.tokens; }
  const TokenLayout& layout() const { return layout_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  MappedFile file_;
  TokenLayout layout_;
};

// Writes a file of our own format, piece by piece.
class TokenFileWriter {
 public:
  //   vocab_size      every token must be below; up to 65536 tokens take two bytes, else four
  //   tokenizer_hash  Tokenizer::hash(), or 0
  TokenFileWriter(const std::string& path, int64_t vocab_size, uint64_t tokenizer_hash);

  // The next tokens belong to a new document.
  void begin_document();
  void write(std::span<const int32_t> tokens);
  int64_t tokens() const { return tokens_; }
  // Gives the file its name. Without this there is no file.
  void commit();

 private:
  FileWriter file_;
  std::string path_;
  int64_t vocab_size_;
  bool wide_;
  int64_t tokens_ = 0;
  std::vector<uint64_t> documents_;
};

}  // namespace pyramoe::data
