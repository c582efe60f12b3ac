// What token_file.cpp asks of each format: is this yours, and where are the tokens?
//
// Every parser checks all that its header says against the size of the file before anything is
// read by it, with arithmetic that cannot wrap.
#pragma once

#include <cstring>
#include <string>

#include "core/error.h"
#include "data/token_file.h"

namespace pyramoe::data {

inline constexpr char kTokenMagic[] = "PMTOKENS";     // 8 bytes, no zero
inline constexpr char kTokenEndMagic[] = "PMTOKEND";  // 8 bytes, no zero
inline constexpr int64_t kTokenHeaderBytes = 64;
inline constexpr int64_t kTokenTrailerBytes = 40;

// A little-endian number at a byte offset. The caller has checked that it is there.
template <class T>
T load_at(const MappedFile& file, int64_t offset) {
  T value;
  std::memcpy(&value, file.bytes(offset, sizeof(T)).data(), sizeof(T));
  return value;
}

template <class... Parts>
[[noreturn]] void fail_token_file(const std::string& path, const Parts&... parts) {
  fail(Exit::data, path, ": ", parts...);
}

// True if the file starts with the magic of our own format, whole or cut off.
bool is_own_format(const MappedFile& file);
TokenLayout parse_own(const MappedFile& file, bool verify);

bool is_llmc(const MappedFile& file);
TokenLayout parse_llmc(const MappedFile& file);
TokenLayout parse_nanogpt(const MappedFile& file);
// `index` is the .idx file, `file` the .bin with the tokens.
TokenLayout parse_megatron(const MappedFile& index, const MappedFile& file);

}  // namespace pyramoe::data
