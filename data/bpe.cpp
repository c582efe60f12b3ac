// Encoding and decoding: words that are tokens by one look-up, other words through a cache, large
// texts in pieces over all threads.
#include "data/bpe.h"

#include <algorithm>

#include "core/error.h"
#include "core/parallel.h"
#include "data/bpe_split.h"
#include "data/byte_alphabet.h"

namespace pyramoe::data {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 18;  // of text that one thread encodes at a time

// Cuts a text into pieces whose words are the words of the whole.
std::vector<std::string_view> cut_pieces(std::string_view text) {
  std::vector<std::string_view> pieces;
  while (!text.empty()) {
    const size_t cut = text.size() <= kPieceBytes ? text.size() : safe_cut(text, kPieceBytes);
    pieces.push_back(text.substr(0, cut));
    text.remove_prefix(cut);
  }
  return pieces;
}

}  // namespace

Bpe::Bpe(std::vector<std::string> names, const std::vector<Merge>& merges)
    : names_(std::move(names)), merges_(merges), byte_ids_(256, -1), pairs_(merges.size()) {
  bytes_.resize(names_.size());
  for (size_t id = 0; id < names_.size(); ++id) {
    if (!from_alphabet(names_[id], bytes_[id])) bytes_[id] = names_[id];
    if (bytes_[id].size() == 1 && names_[id] == to_alphabet(bytes_[id])) {
      byte_ids_[static_cast<uint8_t>(bytes_[id][0])] = static_cast<int32_t>(id);
    }
    if (names_[id] == kEndOfText) eot_ = static_cast<int32_t>(id);
  }
  for (size_t b = 0; b < 256; ++b) {
    if (byte_ids_[b] < 0) {
      fail(Exit::data, "vocabulary: byte ", b, " (written \"",
           to_alphabet(std::string(1, static_cast<char>(b))),
           "\") has no token; a byte-level vocabulary has one for each of the 256 bytes");
    }
  }
  std::vector<std::pair<std::string_view, int32_t>> index;
  for (size_t id = 0; id < names_.size(); ++id) index.emplace_back(names_[id], id);
  std::sort(index.begin(), index.end());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto [left, right] = merges[rank];
    PM_CHECK(left >= 0 && left < vocab_size() && right >= 0 && right < vocab_size(), "Bpe: merge ",
             rank, " is of tokens ", left, " and ", right, ", vocabulary is ", vocab_size());
    const std::string whole = name_of(left) + name_of(right);
    const auto found = std::lower_bound(index.begin(), index.end(),
                                        std::pair<std::string_view, int32_t>(whole, -1));
    if (found == index.end() || found->first != whole) {
      fail(Exit::data, "merge ", rank + 1, " makes \"", whole,
           "\", which is no token of the vocabulary; the two files do not belong together");
    }
    if (!pairs_.add(left, right, {static_cast<uint32_t>(rank), found->second})) {
      fail(Exit::data, "merge ", rank + 1, " (\"", name_of(left), " ", name_of(right),
           "\") comes twice");
    }
  }
  fill_words();
}

void Bpe::fill_words() {
  words_ = WordMap(names_.size());
  std::vector<int32_t> ids;
  for (size_t id = 0; id < bytes_.size(); ++id) {
    const std::string& word = bytes_[id];
    if (word.empty() || word.size() > kKeyBytes) continue;
    ids.clear();
    merge_word(word.data(), word.size(), ids);
    if (ids.size() != 1 || ids[0] != static_cast<int32_t>(id)) continue;
    words_.add(word_key(word.data(), word.size(), word.data() + word.size()), ids[0]);
  }
}

void Bpe::encode_word(const char* p, size_t length, const char* end, WordCache& cache,
                      std::vector<int32_t>& ids) const {
  if (length > kKeyBytes) return merge_word(p, length, ids);
  const WordKey key = word_key(p, length, end);
  if (const int32_t id = words_.find(key); id >= 0) {
    ids.push_back(id);
    return;
  }
  WordCache::Entry& entry = cache.at(key);
  if (entry.key == key) {
    ids.insert(ids.end(), entry.ids, entry.ids + entry.count);
    return;
  }
  const size_t first = ids.size();
  merge_word(p, length, ids);
  const size_t count = ids.size() - first;
  if (count > WordCache::kIds) return;
  entry.key = key;
  entry.count = static_cast<uint32_t>(count);
  std::copy_n(ids.begin() + static_cast<std::ptrdiff_t>(first), count, entry.ids);
}

void Bpe::encode_words(std::string_view text, WordCache& cache, std::vector<int32_t>& ids) const {
  const char* end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const char* q = next_word(p, end);
    encode_word(p, static_cast<size_t>(q - p), end, cache, ids);
    p = q;
  }
}

void Bpe::encode_text(std::string_view text, std::vector<int32_t>& ids) const {
  if (text.size() <= kPieceBytes || num_threads() == 1) {
    WordCache cache;
    ids.reserve(ids.size() + text.size() / 4 + 1);
    return encode_words(text, cache, ids);
  }
  const std::vector<std::string_view> pieces = cut_pieces(text);
  std::vector<std::vector<int32_t>> parts(pieces.size());
  parallel_for(static_cast<int64_t>(pieces.size()), 4, [&](int64_t begin, int64_t stop) {
    WordCache cache;
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(stop); ++i) {
      parts[i].reserve(pieces[i].size() / 4 + 1);
      encode_words(pieces[i], cache, parts[i]);
    }
  });
  size_t total = ids.size();
  for (const auto& part : parts) total += part.size();
  ids.reserve(total);
  for (const auto& part : parts) ids.insert(ids.end(), part.begin(), part.end());
}

std::vector<int32_t> Bpe::encode(std::string_view text, bool with_special) const {
  std::vector<int32_t> ids;
  const std::string_view mark = kEndOfText;
  for (;;) {
    const size_t at = with_special && eot_ >= 0 ? text.find(mark) : std::string_view::npos;
    encode_text(text.substr(0, at), ids);
    if (at == std::string_view::npos) return ids;
    ids.push_back(eot_);
    text.remove_prefix(at + mark.size());
  }
}

const std::string& Bpe::bytes_of(int32_t id) const {
  if (id < 0 || id >= vocab_size()) {
    fail(Exit::data, "decode: token id ", id, " is outside the vocabulary of ", vocab_size(),
         " tokens; the tokens were made with another tokenizer");
  }
  return bytes_[static_cast<size_t>(id)];
}

std::string Bpe::decode(std::span<const int32_t> ids) const {
  std::string bytes;
  for (const int32_t id : ids) bytes += bytes_of(id);
  return bytes;
}

}  // namespace pyramoe::data
