// Opening any token file, reading checked tokens from it, and writing our own.
#include "data/token_file.h"

#include <limits>

#include "core/crc32c.h"
#include "core/error.h"
#include "data/token_formats.h"

namespace pyramoe::data {
namespace {

template <class T>
void put(std::string& bytes, T value) {
  char raw[sizeof(T)];
  std::memcpy(raw, &value, sizeof(T));
  bytes.append(raw, sizeof(T));
}

// Copies stored tokens to ints; returns the place of the first outside [0, vocab), or -1.
template <class T>
int64_t copy_checked(const std::byte* from, std::span<int32_t> out, int64_t vocab) {
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, from + i * sizeof(T), sizeof(T));
    const auto wide = static_cast<int64_t>(value);
    if (wide < 0 || wide >= vocab) return static_cast<int64_t>(i);
    out[i] = static_cast<int32_t>(wide);
  }
  return -1;
}

int64_t copy_checked(TokenType type, const std::byte* from, std::span<int32_t> out, int64_t vocab) {
  switch (type) {
    case TokenType::u8:
      return copy_checked<uint8_t>(from, out, vocab);
    case TokenType::i8:
      return copy_checked<int8_t>(from, out, vocab);
    case TokenType::u16:
      return copy_checked<uint16_t>(from, out, vocab);
    case TokenType::i16:
      return copy_checked<int16_t>(from, out, vocab);
    case TokenType::u32:
      return copy_checked<uint32_t>(from, out, vocab);
    case TokenType::i32:
      return copy_checked<int32_t>(from, out, vocab);
    case TokenType::i64:
      return copy_checked<int64_t>(from, out, vocab);
  }
  return 0;
}

int64_t value_at(TokenType type, const MappedFile& file, int64_t offset) {
  switch (type) {
    case TokenType::u8:
      return load_at<uint8_t>(file, offset);
    case TokenType::i8:
      return load_at<int8_t>(file, offset);
    case TokenType::u16:
      return load_at<uint16_t>(file, offset);
    case TokenType::i16:
      return load_at<int16_t>(file, offset);
    case TokenType::u32:
      return load_at<uint32_t>(file, offset);
    case TokenType::i32:
      return load_at<int32_t>(file, offset);
    case TokenType::i64:
      return load_at<int64_t>(file, offset);
  }
  return 0;
}

std::string with_ending(const std::string& path, const char* ending) {
  return path.substr(0, path.size() - 4) + ending;
}

}  // namespace

int64_t size_of(TokenType type) {
  switch (type) {
    case TokenType::u8:
    case TokenType::i8:
      return 1;
    case TokenType::u16:
    case TokenType::i16:
      return 2;
    case TokenType::u32:
    case TokenType::i32:
      return 4;
    case TokenType::i64:
      return 8;
  }
  return 0;
}

const char* to_string(TokenType type) {
  constexpr const char* kNames[] = {"u8", "i8", "u16", "i16", "u32", "i32", "i64"};
  return kNames[static_cast<size_t>(type)];
}

const char* to_string(TokenFormat format) {
  constexpr const char* kNames[] = {"pyramoe", "nanoGPT", "llm.c", "Megatron"};
  return kNames[static_cast<size_t>(format)];
}

TokenFile::TokenFile(const std::string& path, bool verify) : path_(path) {
  const bool index = path.ends_with(".idx");
  const bool bin = path.ends_with(".bin");
  if (index || (bin && path_exists(with_ending(path, ".idx")))) {
    const MappedFile idx(with_ending(path, ".idx"));
    file_ = MappedFile(with_ending(path, ".bin"));
    layout_ = parse_megatron(idx, file_);
  } else {
    file_ = MappedFile(path);
    if (file_.size() == 0) {
      fail_token_file(
          path, "the file is empty; expected tokens: make it with `pyramoe tokenize prepare`");
    }
    if (is_own_format(file_)) {
      layout_ = parse_own(file_, verify);
    } else if (is_llmc(file_)) {
      layout_ = parse_llmc(file_);
    } else if (bin) {
      layout_ = parse_nanogpt(file_);
    } else {
      fail_token_file(path, "not a token file: it does not start with \"", kTokenMagic,
                      "\", nor is it named .bin or .idx; make one from text with "
                      "`pyramoe tokenize prepare`");
    }
  }
  file_.advise(MappedFile::Access::random);
}

void TokenFile::read(int64_t begin, std::span<int32_t> out, int64_t vocab) const {
  const auto count = static_cast<int64_t>(out.size());
  PM_CHECK(begin >= 0 && count <= tokens() && begin <= tokens() - count,
           "TokenFile::read: tokens [", begin, ", ", begin, " + ", count, ") of ", tokens(), " in ",
           path_);
  file_.check_unchanged();
  const int64_t width = size_of(layout_.type);
  const int64_t offset = layout_.offset + begin * width;
  const auto limit = std::min<int64_t>(vocab, std::numeric_limits<int32_t>::max());
  const int64_t bad =
      copy_checked(layout_.type, file_.bytes(offset, count * width).data(), out, limit);
  if (bad >= 0) {
    fail_token_file(path_, "token ", begin + bad, " is ",
                    value_at(layout_.type, file_, offset + bad * width),
                    ", outside the vocabulary of ", vocab,
                    "; set model.vocab to the tokenizer's size or prepare the data again");
  }
}

TokenFileWriter::TokenFileWriter(const std::string& path, int64_t vocab_size,
                                 uint64_t tokenizer_hash)
    : file_(path, Exit::data), path_(path), vocab_size_(vocab_size), wide_(vocab_size > 65536) {
  PM_CHECK(vocab_size > 0 && vocab_size <= std::numeric_limits<int32_t>::max(),
           "TokenFileWriter: vocabulary size ", vocab_size);
  std::string header(kTokenMagic, 8);
  put<uint32_t>(header, 1);
  put<uint32_t>(header, wide_ ? 4 : 2);
  put<uint64_t>(header, static_cast<uint64_t>(vocab_size));
  put<uint64_t>(header, tokenizer_hash);
  header.resize(kTokenHeaderBytes - 4, '\0');
  put<uint32_t>(header, crc32c(header));
  file_.write(header);
}

void TokenFileWriter::begin_document() {
  const auto start = static_cast<uint64_t>(tokens_);
  if (documents_.empty() || documents_.back() != start) documents_.push_back(start);
}

void TokenFileWriter::write(std::span<const int32_t> tokens) {
  std::string bytes;
  bytes.reserve(tokens.size() * (wide_ ? 4 : 2));
  for (const int32_t id : tokens) {
    PM_CHECK(id >= 0 && id < vocab_size_, "TokenFileWriter: token ", id, ", vocabulary is ",
             vocab_size_, ", file ", path_);
    if (wide_) {
      put<uint32_t>(bytes, static_cast<uint32_t>(id));
    } else {
      put<uint16_t>(bytes, static_cast<uint16_t>(id));
    }
  }
  file_.write(bytes);
  tokens_ += static_cast<int64_t>(tokens.size());
}

void TokenFileWriter::commit() {
  if (tokens_ == 0) {
    fail_token_file(path_, "there is nothing to write: the texts gave no tokens");
  }
  while (!documents_.empty() && documents_.back() == static_cast<uint64_t>(tokens_)) {
    documents_.pop_back();  // begun, but nothing came
  }
  file_.write(std::string(static_cast<size_t>(-file_.bytes() & 7), '\0'));
  std::string tail;
  for (const uint64_t start : documents_) put(tail, start);
  file_.write(tail);
  std::string trailer;
  put<uint64_t>(trailer, static_cast<uint64_t>(tokens_));
  put<uint64_t>(trailer, documents_.size());
  put<uint32_t>(trailer, file_.crc());
  put<uint32_t>(trailer, 0);
  trailer.append(kTokenEndMagic, 8);
  put<uint32_t>(trailer, crc32c(trailer));
  put<uint32_t>(trailer, 0);
  file_.write(trailer);
  file_.commit();
}

}  // namespace pyramoe::data
