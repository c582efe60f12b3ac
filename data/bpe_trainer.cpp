// The trainer: words counted in parallel, then merges driven by a heap of pairs.
//
// The heap is lazy: a count that fell is corrected when its pair comes up, a pair that is new or
// grew is pushed once after the merge that made it.
#include "data/bpe_trainer.h"

#include <algorithm>
#include <queue>
#include <set>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "data/bpe_split.h"
#include "data/byte_alphabet.h"

namespace pyramoe::data {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 20;

using ViewCounts = std::unordered_map<std::string_view, int64_t>;

void count_words(std::string_view text, ViewCounts& counts) {
  const char* end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const char* q = next_word(p, end);
    for (; p < q; p += std::min<std::ptrdiff_t>(q - p, BpeTrainer::kMaxWord)) {
      const auto length = std::min(static_cast<size_t>(q - p), BpeTrainer::kMaxWord);
      ++counts[std::string_view(p, length)];
    }
  }
}

struct Word {
  std::vector<int32_t> ids;
  int64_t count;
};

struct Candidate {
  int64_t count;
  int32_t left, right;
  // The heap's top is the greatest: more often, then lower ids.
  bool operator<(const Candidate& o) const {
    if (count != o.count) return count < o.count;
    return std::pair(left, right) > std::pair(o.left, o.right);
  }
};

struct PairHash {
  size_t operator()(uint64_t key) const {
    key *= 0x9E3779B97F4A7C15ull;
    return static_cast<size_t>(key ^ key >> 32);
  }
};

struct PairInfo {
  int64_t count = 0;
  std::vector<uint32_t> words;  // that have or had the pair; may repeat
};

// The state of one training: words as tokens, and how often each pair of neighbours occurs.
class Merger {
 public:
  explicit Merger(std::vector<Word> words) : words_(std::move(words)) {
    for (uint32_t w = 0; w < words_.size(); ++w) {
      const std::vector<int32_t>& ids = words_[w].ids;
      for (size_t i = 0; i + 1 < ids.size(); ++i) change(w, ids[i], ids[i + 1], words_[w].count);
    }
    changed_.clear();
    for (const auto& [key, info] : pairs_) push(key, info.count);
  }

  // The most frequent pair; count 0 when there is none.
  Candidate best() {
    while (!heap_.empty()) {
      const Candidate top = heap_.top();
      const auto found = pairs_.find(pair_key(top.left, top.right));
      const int64_t now = found == pairs_.end() ? 0 : found->second.count;
      if (now == top.count) return top;
      heap_.pop();
      if (now > 0 && now < top.count) push(pair_key(top.left, top.right), now);
    }
    return {0, -1, -1};
  }

  // The pair will not come up again unless it is made anew.
  void forget(int32_t left, int32_t right) { pairs_.erase(pair_key(left, right)); }

  void merge(int32_t left, int32_t right, int32_t id) {
    const auto found = pairs_.find(pair_key(left, right));
    std::vector<uint32_t> where = std::move(found->second.words);
    std::sort(where.begin(), where.end());
    where.erase(std::unique(where.begin(), where.end()), where.end());
    changed_.clear();
    for (const uint32_t w : where) merge_in(w, left, right, id);
    pairs_.erase(pair_key(left, right));
    std::sort(changed_.begin(), changed_.end());
    changed_.erase(std::unique(changed_.begin(), changed_.end()), changed_.end());
    for (const uint64_t key : changed_) {
      const auto grown = pairs_.find(key);
      if (grown != pairs_.end() && grown->second.count > 0) push(key, grown->second.count);
    }
  }

 private:
  void push(uint64_t key, int64_t count) {
    heap_.push({count, static_cast<int32_t>(key >> 32), static_cast<int32_t>(key & 0xFFFFFFFFu)});
  }

  void change(uint32_t word, int32_t left, int32_t right, int64_t by) {
    const uint64_t key = pair_key(left, right);
    PairInfo& info = pairs_[key];
    info.count += by;
    if (by < 0) return;
    if (info.words.empty() || info.words.back() != word) info.words.push_back(word);
    changed_.push_back(key);
  }

  // Rewrites one word. Only pairs that touch a merged place change: `hit_` marks the places.
  void merge_in(uint32_t w, int32_t left, int32_t right, int32_t id) {
    std::vector<int32_t>& ids = words_[w].ids;
    const int64_t count = words_[w].count;
    hit_.assign(ids.size(), 0);
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      if (hit_[i] != 0 || ids[i] != left || ids[i + 1] != right) continue;
      hit_[i] = 1;      // becomes the new token
      hit_[i + 1] = 2;  // is gone
    }
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      if (hit_[i] != 0 || hit_[i + 1] != 0) change(w, ids[i], ids[i + 1], -count);
    }
    size_t to = 0;
    for (size_t from = 0; from < ids.size(); ++from) {
      if (hit_[from] == 2) continue;
      ids[to] = hit_[from] == 1 ? id : ids[from];
      hit_[to++] = hit_[from];
    }
    ids.resize(to);
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      if (hit_[i] != 0 || hit_[i + 1] != 0) change(w, ids[i], ids[i + 1], count);
    }
  }

  std::vector<Word> words_;
  std::unordered_map<uint64_t, PairInfo, PairHash> pairs_;
  std::priority_queue<Candidate> heap_;
  std::vector<uint64_t> changed_;  // pairs that may have grown in this merge
  std::vector<uint8_t> hit_;
};

}  // namespace

void BpeTrainer::add(std::span<const std::string> texts) {
  std::vector<std::vector<std::string_view>> shares(1);  // of about kPieceBytes each
  size_t filled = 0;
  for (std::string_view text : texts) {
    bytes_ += static_cast<int64_t>(text.size());
    while (!text.empty()) {
      const size_t cut = text.size() <= kPieceBytes ? text.size() : safe_cut(text, kPieceBytes);
      shares.back().push_back(text.substr(0, cut));
      text.remove_prefix(cut);
      filled += cut;
      if (filled < kPieceBytes) continue;
      filled = 0;
      shares.emplace_back();
    }
  }
  std::vector<ViewCounts> parts(shares.size());
  parallel_for(static_cast<int64_t>(shares.size()), 1, [&](int64_t begin, int64_t stop) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(stop); ++i) {
      for (const std::string_view text : shares[i]) count_words(text, parts[i]);
    }
  });
  for (const ViewCounts& part : parts) {
    for (const auto& [word, count] : part) {
      const auto found = counts_.find(word);
      if (found != counts_.end()) {
        found->second += count;
      } else {
        counts_.emplace(std::string(word), count);
      }
    }
  }
}

Bpe BpeTrainer::train(const BpeTrainOptions& options) const {
  const int64_t wanted = options.vocab_size;
  if (wanted < 257 || wanted > (int64_t{1} << 20)) {
    fail(Exit::config, "tokenizer training: vocabulary size ", wanted,
         "; expected 257 (the bytes and ", kEndOfText, ") to ", int64_t{1} << 20);
  }
  std::vector<std::string> names;
  std::vector<int32_t> byte_ids(256);
  for (const uint8_t b : bytes_in_gpt2_order()) {
    byte_ids[b] = static_cast<int32_t>(names.size());
    names.push_back(to_alphabet(std::string(1, static_cast<char>(b))));
  }
  std::vector<Word> words;
  words.reserve(counts_.size());
  for (const auto& [word, count] : counts_) {
    if (word.size() < 2) continue;
    Word w{{}, count};
    for (const char c : word) w.ids.push_back(byte_ids[static_cast<uint8_t>(c)]);
    words.push_back(std::move(w));
  }

  // A pair may spell a token that another pair made before: then it is one more way to that token.
  std::unordered_map<std::string, int32_t> id_of;
  for (size_t id = 0; id < names.size(); ++id) id_of.emplace(names[id], static_cast<int32_t>(id));
  std::set<Merge> known;
  std::vector<Merge> merges;
  Merger merger(std::move(words));
  while (static_cast<int64_t>(names.size()) + 1 < wanted) {
    const Candidate best = merger.best();
    if (best.count < std::max<int64_t>(options.min_count, 1)) break;
    const std::string whole =
        names[static_cast<size_t>(best.left)] + names[static_cast<size_t>(best.right)];
    if (whole == kEndOfText) {  // text that spells the mark must not take its name
      merger.forget(best.left, best.right);
      continue;
    }
    const auto [found, fresh] = id_of.emplace(whole, static_cast<int32_t>(names.size()));
    if (fresh) names.push_back(whole);
    if (known.emplace(best.left, best.right).second) merges.emplace_back(best.left, best.right);
    merger.merge(best.left, best.right, found->second);
    if (options.progress && names.size() % 64 == 0) {
      options.progress(static_cast<int64_t>(names.size()), wanted);
    }
  }
  names.emplace_back(kEndOfText);
  return Bpe(std::move(names), merges);
}

}  // namespace pyramoe::data
