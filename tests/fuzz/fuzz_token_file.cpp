// A token file of any format: refused, or all its tokens can be read and are below the vocabulary.
//
// The first byte chooses the name and with it the format: 0 our own, 1 llm.c or nanoGPT, 2 our own
// with its checksums put right (or no mutation would come past them), else Megatron's, where the
// second byte says how much of the rest is the index.
#include <algorithm>
#include <cstring>
#include <fstream>

#include "core/crc32c.h"
#include "data/token_file.h"
#include "tests/core/temp_folder.h"
#include "tests/fuzz/fuzz.h"

namespace {

void put(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// A file with the checksums of header, tokens and trailer that its content asks for.
std::string with_checksums(std::string file) {
  constexpr size_t header = 64;
  constexpr size_t trailer = 40;
  if (file.size() < header + trailer) return file;
  const auto store = [&](size_t at, size_t begin, size_t end) {
    const uint32_t sum = pyramoe::crc32c(std::string_view(file).substr(begin, end - begin));
    std::memcpy(file.data() + at, &sum, sizeof sum);
  };
  const size_t tail = file.size() - trailer;
  store(header - 4, 0, header - 4);
  store(tail + 16, 0, tail);
  store(tail + 32, tail, tail + 32);
  return file;
}

void read_all(const std::string& path) {
  using namespace pyramoe;
  for (const bool verify : {false, true}) {
    expect_answer([&] {
      const data::TokenFile file(path, verify);
      require(file.tokens() >= 0, "no file has fewer than no tokens");
      std::vector<int32_t> piece(64);
      for (int64_t begin = 0; begin < file.tokens(); begin += 64) {
        piece.resize(static_cast<size_t>(std::min<int64_t>(64, file.tokens() - begin)));
        file.read(begin, piece, 1000);
        for (const int32_t id : piece) require(id >= 0 && id < 1000, "tokens are in range");
      }
    });
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const pyramoe::TempFolder folder;
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] == 0) {
    put(folder / "own.tok", bytes);
    read_all(folder / "own.tok");
  } else if (data[0] == 1) {
    put(folder / "flat.bin", bytes);
    read_all(folder / "flat.bin");
  } else if (data[0] == 2) {
    put(folder / "own.tok", with_checksums(std::string(bytes)));
    read_all(folder / "own.tok");
  } else {
    if (bytes.empty()) return 0;
    const size_t cut = std::min<size_t>(static_cast<unsigned char>(bytes[0]), bytes.size() - 1);
    put(folder / "pair.idx", bytes.substr(1, cut));
    put(folder / "pair.bin", bytes.substr(1 + cut));
    read_all(folder / "pair.idx");
  }
  return 0;
}
