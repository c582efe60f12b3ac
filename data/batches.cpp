// From a sample's number to its tokens.
#include "data/batches.h"

#include <algorithm>

#include "core/error.h"
#include "core/rng.h"
#include "data/permutation.h"

namespace pyramoe::data {
namespace {

std::vector<double> weights_of(const Corpus& corpus) {
  std::vector<double> weights;
  for (const Domain& domain : corpus.domains()) weights.push_back(domain.weight);
  return weights;
}

RngKey order_key(uint64_t seed, int64_t domain, int64_t epoch) {
  return {.seed = seed,
          .purpose = RngPurpose::data_order,
          .step = static_cast<uint32_t>(epoch),
          .layer = static_cast<uint32_t>(domain)};
}

// Fills row `row` of the batch with context + 1 tokens from `first` on.
void put_row(Batch& batch, int64_t row, const TokenRange& range, int64_t first,
             std::vector<int32_t>& window) {
  window.resize(static_cast<size_t>(batch.context) + 1);
  range.source->read(first, window);
  const auto to = static_cast<std::ptrdiff_t>(row * batch.context);
  std::copy(window.begin(), window.end() - 1, batch.tokens.begin() + to);
  std::copy(window.begin() + 1, window.end(), batch.targets.begin() + to);
}

Batch empty_batch(int64_t rows, int64_t context) {
  Batch batch{rows, context, {}, {}, {}, {}};
  batch.tokens.resize(static_cast<size_t>(rows * context));
  batch.targets.resize(static_cast<size_t>(rows * context));
  batch.domain.resize(static_cast<size_t>(rows));
  batch.sample.resize(static_cast<size_t>(rows));
  return batch;
}

void check_length(const TokenRange& range, const Domain& domain, int64_t context,
                  const char* purpose) {
  if (range.size() >= context + 1) return;
  fail(Exit::data, range.from, ": domain \"", domain.name, "\" has ", range.size(), " tokens for ",
       purpose, ", fewer than the context of ", context,
       " and one; give it more text, a shorter model.context or another val_fraction");
}

}  // namespace

Batches::Batches(const Corpus& corpus, int64_t batch, int64_t context, uint64_t seed)
    : corpus_(&corpus), batch_(batch), context_(context), seed_(seed), blend_(weights_of(corpus)) {
  PM_CHECK(batch > 0 && context > 0, "Batches: batch ", batch, " of context ", context);
  for (const Domain& domain : corpus.domains()) {
    check_length(domain.train, domain, context, "training");
    // One window less than fits, so that any phase below the context fits too.
    windows_.push_back(std::max<int64_t>(1, (domain.train.size() - context) / context));
  }
}

SamplePlace Batches::locate(int64_t sample) const {
  const Blend::Pick pick = blend_.at(sample);
  const int64_t windows = windows_[static_cast<size_t>(pick.domain)];
  const TokenRange& range = corpus_->domains()[static_cast<size_t>(pick.domain)].train;
  SamplePlace place;
  place.domain = pick.domain;
  place.epoch = pick.ordinal / windows;
  const RngKey key = order_key(seed_, pick.domain, place.epoch);
  place.window = Permutation(windows, key)(pick.ordinal % windows);
  const int64_t spare = range.size() - 1 - windows * context_;
  const int64_t phases = std::min(context_, spare + 1);
  const uint64_t draw = philox(key, ~uint64_t{0}).v[0];
  const auto phase = static_cast<int64_t>(draw * static_cast<uint64_t>(phases) >> 32);
  place.first_token = range.begin + phase + place.window * context_;
  return place;
}

Batch Batches::samples(int64_t first, int64_t count) const {
  PM_CHECK(first >= 0 && count >= 0, "Batches::samples: ", count, " from ", first);
  Batch batch = empty_batch(count, context_);
  std::vector<int32_t> window;
  for (int64_t row = 0; row < count; ++row) {
    const SamplePlace place = locate(first + row);
    const TokenRange& range = corpus_->domains()[static_cast<size_t>(place.domain)].train;
    put_row(batch, row, range, place.first_token, window);
    batch.domain[static_cast<size_t>(row)] = place.domain;
    batch.sample[static_cast<size_t>(row)] = first + row;
  }
  return batch;
}

Batch Batches::at(int64_t step, int64_t rank, int64_t ranks) const {
  PM_CHECK(step >= 0 && ranks > 0 && rank >= 0 && rank < ranks, "Batches::at: step ", step,
           ", rank ", rank, " of ", ranks);
  if (batch_ % ranks != 0) {
    fail(Exit::config, "train.batch = ", batch_, " is not divisible by ", ranks, " ranks; use ",
         batch_ / ranks * ranks + ranks);
  }
  const int64_t rows = batch_ / ranks;
  return samples(step * batch_ + rank * rows, rows);
}

ValidationSet::ValidationSet(const Corpus& corpus, int64_t context, int64_t max_windows)
    : corpus_(&corpus), context_(context), starts_{0} {
  PM_CHECK(context > 0 && max_windows >= 0, "ValidationSet: context ", context, ", max_windows ",
           max_windows);
  for (const Domain& domain : corpus.domains()) {
    const TokenRange& range = domain.validation;
    if (range.size() > 0) check_length(range, domain, context, "validation");
    const int64_t all = range.size() > 0 ? (range.size() - 1) / context : 0;
    total_.push_back(all);
    starts_.push_back(starts_.back() + (max_windows > 0 ? std::min(all, max_windows) : all));
  }
}

Batch ValidationSet::windows(int64_t first, int64_t count) const {
  PM_CHECK(first >= 0 && first <= size() && count >= 0, "ValidationSet: ", count, " windows from ",
           first, " of ", size());
  Batch batch = empty_batch(std::min(count, size() - first), context_);
  std::vector<int32_t> window;
  size_t d = 0;
  for (int64_t row = 0; row < batch.rows; ++row) {
    const int64_t number = first + row;
    while (number >= starts_[d + 1]) ++d;
    const int64_t used = starts_[d + 1] - starts_[d];
    const int64_t place = (number - starts_[d]) * total_[d] / used;  // spread evenly
    const TokenRange& range = corpus_->domains()[d].validation;
    put_row(batch, row, range, range.begin + place * context_, window);
    batch.domain[static_cast<size_t>(row)] = static_cast<int32_t>(d);
    batch.sample[static_cast<size_t>(row)] = number;
  }
  return batch;
}

}  // namespace pyramoe::data
