// Batches: which tokens a step trains on, as a pure function of (seed, step).
//
// Samples have global numbers: sample g is row g mod batch of step g / batch, whatever rank asks.
//   domain   Blend: g -> (domain, k), k = samples of that domain before g
//   epoch    k / W, where W = the windows of context + 1 tokens in the domain's train part
//   window   a permutation of [0, W), keyed by (seed, domain, epoch): an epoch visits each once
//   tokens   from begin + phase + window * context; the phase, below context, is drawn for each
//            epoch, so that later epochs cut the text at other places
// Nothing is remembered between calls: resuming is asking for the next step. Sources are borrowed
// from the Corpus, which must live as long.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/blend.h"
#include "data/corpus.h"

namespace pyramoe::data {

struct Batch {
  int64_t rows = 0, context = 0;
  std::vector<int32_t> tokens;   // (rows, context)
  std::vector<int32_t> targets;  // (rows, context): the token after each
  std::vector<int32_t> domain;   // (rows): index into Corpus::domains()
  std::vector<int64_t> sample;   // (rows): global sample number; window number in a ValidationSet
};

// Where a sample comes from, to look it up by hand.
struct SamplePlace {
  int32_t domain = 0;
  int64_t epoch = 0;
  int64_t window = 0;
  int64_t first_token = 0;  // in the domain's file
};

class Batches {
 public:
  //   batch    rows of one optimizer step over all ranks
  // Throws Error(data) if a domain has fewer than context + 1 tokens to train on.
  Batches(const Corpus& corpus, int64_t batch, int64_t context, uint64_t seed);

  // All rows of a step, or the rows of one rank: [rank * batch / ranks, (rank + 1) * batch /
  // ranks). Throws Error(config) if ranks does not divide the batch.
  Batch at(int64_t step, int64_t rank = 0, int64_t ranks = 1) const;
  // Rows by global sample number: for micro-batches, and for batch sizes that grow.
  Batch samples(int64_t first, int64_t count) const;
  SamplePlace locate(int64_t sample) const;

  int64_t batch() const { return batch_; }
  // Windows of a domain that one epoch visits.
  int64_t windows(int64_t domain) const { return windows_.at(static_cast<size_t>(domain)); }

 private:
  const Corpus* corpus_;
  int64_t batch_, context_;
  uint64_t seed_;
  Blend blend_;
  std::vector<int64_t> windows_;
};

// The validation part of every domain, cut into windows that do not overlap, in order.
class ValidationSet {
 public:
  //   max_windows  of each domain, spread evenly over its validation part; 0: all
  // A domain whose validation part is shorter than context + 1 tokens throws Error(data), unless
  // the part is empty: then it has no windows.
  ValidationSet(const Corpus& corpus, int64_t context, int64_t max_windows = 0);

  int64_t size() const { return starts_.back(); }  // windows of all domains
  // Windows of domain d are [begin(d), end(d)).
  int64_t begin(int64_t domain) const { return starts_.at(static_cast<size_t>(domain)); }
  int64_t end(int64_t domain) const { return starts_.at(static_cast<size_t>(domain) + 1); }
  // Windows [first, first + count), fewer at the end; rows are ordered by domain, then place.
  Batch windows(int64_t first, int64_t count) const;

 private:
  const Corpus* corpus_;
  int64_t context_;
  std::vector<int64_t> starts_;  // first window of each domain, and the number of all
  std::vector<int64_t> total_;   // windows that a domain's part holds, before max_windows
};

}  // namespace pyramoe::data
