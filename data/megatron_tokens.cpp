// Megatron's indexed data sets: FILE.idx says how FILE.bin is cut into sequences and documents.
//
// The sequences must lie one after the other and fill FILE.bin: then the tokens are one stream, as
// in every other format. An index that picks parts out of a file is refused.
#include "data/token_formats.h"

namespace pyramoe::data {
namespace {

TokenType type_of_code(const std::string& path, int code) {
  switch (code) {
    case 1:
      return TokenType::u8;
    case 2:
      return TokenType::i8;
    case 3:
      return TokenType::i16;
    case 4:
      return TokenType::i32;
    case 5:
      return TokenType::i64;
    case 8:
      return TokenType::u16;
    default:
      fail_token_file(path, "dtype code ", code,
                      "; expected 1, 2, 3, 4, 5 or 8 (u8 i8 i16 i32 i64 u16): tokens are whole "
                      "numbers");
  }
}

constexpr int64_t kHeaderBytes = 34;

}  // namespace

TokenLayout parse_megatron(const MappedFile& index, const MappedFile& file) {
  const std::string& path = index.path();
  constexpr std::string_view kMagic("MMIDIDX\0\0", 9);
  if (!index.text().starts_with(kMagic)) {
    fail_token_file(path,
                    "not a Megatron index: it does not start with MMIDIDX; for bare tokens "
                    "move this file away from its .bin");
  }
  if (index.size() < kHeaderBytes) {
    fail_token_file(path, "a Megatron index header has ", kHeaderBytes, " bytes, the file has ",
                    index.size(), "; fetch it again");
  }
  const auto version = load_at<uint64_t>(index, 9);
  if (version != 1) fail_token_file(path, "Megatron index version ", version, "; expected 1");
  TokenLayout layout;
  layout.format = TokenFormat::megatron;
  layout.type = type_of_code(path, load_at<uint8_t>(index, 17));
  const auto sequences = load_at<uint64_t>(index, 18);
  const auto marks = load_at<uint64_t>(index, 26);
  const auto room = static_cast<uint64_t>(index.size() - kHeaderBytes);
  if (sequences > room / 12 || marks > room / 8 || sequences * 12 + marks * 8 != room) {
    fail_token_file(path, "it says ", sequences, " sequences and ", marks,
                    " document marks, but has ", room, " bytes for them; fetch it again");
  }
  const int64_t lengths = kHeaderBytes;
  const auto count = static_cast<int64_t>(sequences);
  const int64_t pointers = lengths + count * 4;
  const int64_t width = size_of(layout.type);
  std::vector<int64_t> starts;  // first token of each sequence
  starts.reserve(sequences);
  for (int64_t s = 0; s < count; ++s) {
    const auto length = load_at<int32_t>(index, lengths + s * 4);
    const auto pointer = load_at<int64_t>(index, pointers + s * 8);
    if (length < 0 || pointer != layout.tokens * width) {
      fail_token_file(path, "sequence ", s, " has length ", length, " at byte ", pointer,
                      "; expected one that follows at byte ", layout.tokens * width,
                      ": only indexes that list the whole .bin in order can be read");
    }
    starts.push_back(layout.tokens);
    layout.tokens += length;
  }
  if (layout.tokens == 0 || layout.tokens * width != file.size()) {
    fail_token_file(file.path(), "its index says ", layout.tokens, " tokens of ", width,
                    " bytes, the file has ", file.size(), " bytes; fetch both again");
  }
  // Marks are sequence numbers: document d is sequences [mark d, mark d + 1).
  int64_t before = 0;
  for (int64_t d = 0; d < static_cast<int64_t>(marks); ++d) {
    const auto mark = load_at<int64_t>(index, pointers + count * 8 + d * 8);
    if (mark < before || mark > count) {
      fail_token_file(path, "document mark ", d, " is ", mark, ", after ", before, ", of ", count,
                      " sequences; fetch it again");
    }
    const int64_t start = mark < count ? starts[static_cast<size_t>(mark)] : layout.tokens;
    const bool fresh = layout.documents.empty() || layout.documents.back() < start;
    if (fresh && start < layout.tokens) layout.documents.push_back(start);
    before = mark;
  }
  return layout;
}

}  // namespace pyramoe::data
