// Words of up to 16 bytes as two machine words, and a flat table from them to token ids.
//
// One idea: most words of a real text are tokens themselves. Such a word is found by one probe and
// never merged. The same key serves the cache of words that had to be merged.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace pyramoe::data {

inline constexpr size_t kKeyBytes = 16;

struct WordKey {
  uint64_t low = 0, high = 0;
  uint32_t length = 0;
  bool operator==(const WordKey&) const = default;

  uint64_t hash() const {
    uint64_t h = (low ^ length) * 0x9E3779B97F4A7C15ull;
    h ^= h >> 32;
    h = (h ^ high) * 0xD6E8FEB86659FD93ull;
    return h ^ h >> 29;
  }
};

// The key of [p, p + length), length <= 16; `end` is where reading must stop.
inline WordKey word_key(const char* p, size_t length, const char* end) {
  WordKey key;
  key.length = static_cast<uint32_t>(length);
  if (end - p >= static_cast<std::ptrdiff_t>(kKeyBytes)) {
    std::memcpy(&key.low, p, 8);
    if (length < 8) {
      key.low &= (uint64_t{1} << 8 * length) - 1;
    } else if (length > 8) {
      std::memcpy(&key.high, p + 8, 8);
      if (length < 16) key.high &= (uint64_t{1} << 8 * (length - 8)) - 1;
    }
  } else {
    char bytes[kKeyBytes] = {};
    std::memcpy(bytes, p, length);
    std::memcpy(&key.low, bytes, 8);
    std::memcpy(&key.high, bytes + 8, 8);
  }
  return key;
}

class WordMap {
 public:
  WordMap() : WordMap(0) {}
  explicit WordMap(size_t words) {
    size_t size = 16;
    while (size < 2 * words) size *= 2;
    slots_.resize(size);
    mask_ = size - 1;
  }

  // The token that is this word, or -1.
  int32_t find(const WordKey& key) const {
    for (size_t i = static_cast<size_t>(key.hash()) & mask_;; i = (i + 1) & mask_) {
      if (slots_[i].id < 0) return -1;
      if (slots_[i].key == key) return slots_[i].id;
    }
  }

  void add(const WordKey& key, int32_t id) {
    size_t i = static_cast<size_t>(key.hash()) & mask_;
    while (slots_[i].id >= 0) i = (i + 1) & mask_;
    slots_[i] = {key, id};
  }

 private:
  struct Slot {
    WordKey key;
    int32_t id = -1;
  };
  std::vector<Slot> slots_;
  size_t mask_ = 0;
};

// A direct-mapped cache of words and the few tokens they were merged into. Owned by one thread.
class WordCache {
 public:
  static constexpr size_t kIds = 7;
  struct Entry {
    WordKey key;  // length 0: empty
    uint32_t count = 0;
    int32_t ids[kIds] = {};
  };

  Entry& at(const WordKey& key) {
    if (entries_.empty()) entries_.resize(kEntries);
    return entries_[static_cast<size_t>(key.hash() >> 20) % kEntries];
  }

 private:
  static constexpr size_t kEntries = 4096;
  std::vector<Entry> entries_;
};

}  // namespace pyramoe::data
