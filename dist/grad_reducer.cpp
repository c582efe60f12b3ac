#include "dist/grad_reducer.h"

#include <algorithm>

namespace pyramoe::dist {

Range own_range(int64_t n, int rank, int ranks) {
  const int64_t part = n / ranks;
  return {rank * part, (rank + 1) * part};
}

GradReducer::GradReducer(std::vector<GradBuffer> buffers, int64_t bucket_bytes)
    : buffers_(std::move(buffers)) {
  // From the end: the backward pass writes the last layers' gradients first.
  for (size_t b = 0; b < buffers_.size(); ++b) {
    const GradBuffer& buffer = buffers_[b];
    if (buffer.sync.size() == 1 || buffer.grad.numel() == 0) continue;
    const int64_t n = buffer.grad.numel();
    PM_CHECK(!buffer.scatter || n % buffer.sync.size() == 0, "GradReducer: a buffer of ", n,
             " elements over ", buffer.sync.size(), " ranks");
    const int64_t most =
        buffer.scatter ? n : std::max<int64_t>(1, bucket_bytes / size_of(buffer.grad.dtype()));
    for (int64_t end = n; end > 0; end -= most) {
      buckets_.push_back({b, std::max<int64_t>(0, end - most), end});
    }
  }
}

void GradReducer::start(const Bucket& bucket) {
  GradBuffer& buffer = buffers_[bucket.buffer];
  if (!buffer.scatter) {
    Tensor part = buffer.grad.rows(bucket.begin, bucket.end);
    works_.push_back(buffer.sync.start_all_reduce(part));
    return;
  }
  const Range mine = own_range(buffer.grad.numel(), buffer.sync.rank(), buffer.sync.size());
  Tensor sum({mine.end - mine.begin}, buffer.grad.dtype(), buffer.grad.device());
  works_.push_back(buffer.sync.start_reduce_scatter(buffer.grad, sum));
  after_.push_back(
      [grad = buffer.grad, sum, mine] { grad.rows(mine.begin, mine.end).copy_from(sum); });
}

void GradReducer::expect(const std::vector<Piece>& pieces) {
  overlapping_ = true;
  next_ = 0;
  for (Bucket& bucket : buckets_) bucket.missing = 0;
  piece_buckets_.assign(pieces.size(), {});
  for (size_t i = 0; i < pieces.size(); ++i) {
    for (size_t b = 0; b < buckets_.size(); ++b) {
      Bucket& bucket = buckets_[b];
      if (bucket.buffer != pieces[i].buffer) continue;
      if (pieces[i].begin >= bucket.end || pieces[i].end <= bucket.begin) continue;
      piece_buckets_[i].push_back(b);
      ++bucket.missing;
    }
  }
}

void GradReducer::ready(size_t piece) {
  if (!overlapping_) return;
  for (const size_t b : piece_buckets_.at(piece)) --buckets_[b].missing;
  while (next_ < buckets_.size() && buckets_[next_].missing == 0) start(buckets_[next_++]);
  if (!buffers_.empty()) {
    if (Fabric* fabric = buffers_[0].sync.fabric()) fabric->advance_others();
  }
}

void GradReducer::reduce() {
  if (!overlapping_) {
    for (const Bucket& bucket : buckets_) start(bucket);
  }
  for (; overlapping_ && next_ < buckets_.size(); ++next_) start(buckets_[next_]);
  for (const Work& work : works_) work.wait();
  for (const auto& step : after_) step();
  works_.clear();
  after_.clear();
  overlapping_ = false;
}

}  // namespace pyramoe::dist
