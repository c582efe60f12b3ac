// Merging the bytes of one word: the pair of lowest rank, everywhere in the word, again and again.
//
// Two ways to the same tokens. Short words: an array, scanned and compacted (quadratic, but a word
// is short). Long words: a linked list and a heap of pairs, n log n, so that a megabyte without a
// blank costs no more than a megabyte of prose. A round takes all pairs of one rank, left to right,
// before pairs that the round itself makes are looked at: that is GPT-2's order.
#include <algorithm>
#include <functional>
#include <limits>
#include <queue>

#include "core/error.h"
#include "data/bpe.h"

namespace pyramoe::data {
namespace {

constexpr size_t kShortWord = 48;

// A long word's symbols. A symbol that was merged into its left neighbour has id -1.
struct Symbol {
  int32_t id, previous, next;
};

// A pair by the place of its left symbol; packed so that a heap orders by rank, then place.
constexpr uint64_t pack(uint32_t rank, int32_t place) {
  return static_cast<uint64_t>(rank) << 32 | static_cast<uint32_t>(place);
}

}  // namespace

void Bpe::merge_word(const char* p, size_t length, std::vector<int32_t>& ids) const {
  if (length <= kShortWord) {
    merge_short(p, length, ids);
  } else {
    merge_long(p, length, ids);
  }
}

void Bpe::merge_short(const char* p, size_t length, std::vector<int32_t>& ids) const {
  int32_t symbol[kShortWord];
  PairMerge merge[kShortWord];  // of symbols i and i + 1
  size_t n = length;
  for (size_t i = 0; i < n; ++i) symbol[i] = byte_ids_[static_cast<uint8_t>(p[i])];
  for (size_t i = 0; i + 1 < n; ++i) merge[i] = pairs_.find(symbol[i], symbol[i + 1]);
  while (n > 1) {
    PairMerge best;
    for (size_t i = 0; i + 1 < n; ++i) {
      if (merge[i].rank < best.rank) best = merge[i];
    }
    if (best.rank == kNoRank) break;
    size_t to = 0;
    for (size_t from = 0; from < n; ++to) {
      const bool hit = from + 1 < n && merge[from].rank == best.rank;
      symbol[to] = hit ? best.id : symbol[from];
      from += hit ? 2 : 1;
      // The pair of the last symbols of two is kept unless one of them is new.
      if (from < n) merge[to] = merge[from - 1];
    }
    n = to;
    for (size_t i = 0; i + 1 < n; ++i) {
      if (symbol[i] == best.id || symbol[i + 1] == best.id) {
        merge[i] = pairs_.find(symbol[i], symbol[i + 1]);
      }
    }
  }
  ids.insert(ids.end(), symbol, symbol + n);
}

void Bpe::merge_long(const char* p, size_t length, std::vector<int32_t>& ids) const {
  if (length >= static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    fail(Exit::data, "encode: a word of ", length,
         " bytes without a blank; words must be shorter than 2 GiB");
  }
  const auto n = static_cast<int32_t>(length);
  std::vector<Symbol> symbols(length);
  for (int32_t i = 0; i < n; ++i) {
    symbols[static_cast<size_t>(i)] = {byte_ids_[static_cast<uint8_t>(p[i])], i - 1,
                                       i + 1 < n ? i + 1 : -1};
  }
  const auto at = [&](int32_t i) -> Symbol& { return symbols[static_cast<size_t>(i)]; };
  const auto merge_at = [&](int32_t i) {  // of the symbol at place i and its right neighbour
    const Symbol& s = at(i);
    return s.id < 0 || s.next < 0 ? PairMerge{} : pairs_.find(s.id, at(s.next).id);
  };
  std::vector<uint64_t> first;
  for (int32_t i = 0; i + 1 < n; ++i) {
    const PairMerge m = merge_at(i);
    if (m.rank != kNoRank) first.push_back(pack(m.rank, i));
  }
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> heap({}, std::move(first));
  std::vector<int32_t> round;  // places of one rank, left to right
  while (!heap.empty()) {
    const auto rank = static_cast<uint32_t>(heap.top() >> 32);
    round.clear();
    for (; !heap.empty() && heap.top() >> 32 == rank; heap.pop()) {
      round.push_back(static_cast<int32_t>(heap.top() & 0xFFFFFFFFu));
    }
    for (const int32_t i : round) {
      const PairMerge m = merge_at(i);
      if (m.rank != rank) continue;  // a neighbour was merged away since
      Symbol& left = at(i);
      Symbol& right = at(left.next);
      left.id = m.id;
      right.id = -1;
      left.next = right.next;
      if (left.next >= 0) at(left.next).previous = i;
      for (const int32_t place : {left.previous, i}) {
        if (place < 0) continue;
        const PairMerge next = merge_at(place);
        if (next.rank != kNoRank) heap.push(pack(next.rank, place));
      }
    }
  }
  for (int32_t i = 0; i >= 0; i = at(i).next) ids.push_back(at(i).id);
}

}  // namespace pyramoe::data
