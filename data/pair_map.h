// A flat hash table from a pair of token ids to the merge they make.
//
// One idea: it is looked up for every two neighbours of every word, so it is one array, at most
// half full, probed in line; filled once, then only read, by any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace pyramoe::data {

inline constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();

// `rank`: place in the list of merges, lower merges first. `id`: the token that the pair becomes.
struct PairMerge {
  uint32_t rank = kNoRank;
  int32_t id = -1;
};

inline uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

class PairMap {
 public:
  PairMap() : PairMap(0) {}
  explicit PairMap(size_t pairs) {
    size_t size = 16;
    while (size < 2 * pairs) size *= 2;
    slots_.resize(size);
    mask_ = size - 1;
  }

  PairMerge find(int32_t left, int32_t right) const {
    const uint64_t key = pair_key(left, right);
    for (size_t i = home(key);; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return slots_[i].merge;
      if (slots_[i].key == kEmpty) return {};
    }
  }

  // False if the pair is there already. At most the constructor's `pairs` may be added.
  bool add(int32_t left, int32_t right, PairMerge merge) {
    const uint64_t key = pair_key(left, right);
    size_t i = home(key);
    for (; slots_[i].key != kEmpty; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return false;
    }
    slots_[i] = {key, merge};
    return true;
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};  // ids are not negative
  struct Slot {
    uint64_t key = kEmpty;
    PairMerge merge;
  };

  size_t home(uint64_t key) const {
    key *= 0x9E3779B97F4A7C15ull;
    return static_cast<size_t>(key ^ key >> 32) & mask_;
  }

  std::vector<Slot> slots_;
  size_t mask_ = 0;
};

}  // namespace pyramoe::data
