// Sums gradients over the ranks that share their parameters.
//
// Gradients lie in flat buffers, one set a sync group; each is cut into buckets of a few megabytes
// that are summed one after the other, or, with overlap, each as soon as all of its gradients are
// written. Sums are elementwise trees in rank order, so buckets and overlap change no bit.
#pragma once

#include <functional>
#include <vector>

#include "dist/process_group.h"

namespace pyramoe::dist {

struct GradBuffer {
  Tensor grad;  // (n)
  ProcessGroup sync;
  // ZeRO-2: of the sum each rank gets only its own_range(); n is a multiple of the group's size.
  bool scatter = false;
};

// Elements [begin, end) that rank `rank` of `ranks` owns of a flat buffer.
struct Range {
  int64_t begin, end;
};
Range own_range(int64_t n, int rank, int ranks);

class GradReducer {
 public:
  explicit GradReducer(std::vector<GradBuffer> buffers, int64_t bucket_bytes = 4 << 20);
  // All of it, after the backward pass. With overlap, what ready() has not started yet.
  void reduce();

  // With overlap: elements [begin, end) of a buffer that the backward pass completes at one moment.
  struct Piece {
    size_t buffer;
    int64_t begin, end;
  };
  // A new backward pass whose gradients are final begins: `pieces` will each be announced once.
  void expect(const std::vector<Piece>& pieces);
  // Piece i of `pieces` is final.
  void ready(size_t piece);

 private:
  struct Bucket {
    size_t buffer;
    int64_t begin, end;
    int64_t missing = 0;  // pieces not yet final
  };
  void start(const Bucket& bucket);

  std::vector<GradBuffer> buffers_;
  std::vector<Bucket> buckets_;
  std::vector<std::vector<size_t>> piece_buckets_;
  std::vector<Work> works_;
  std::vector<std::function<void()>> after_;
  size_t next_ = 0;  // buckets start in one order on every rank
  bool overlapping_ = false;
};

}  // namespace pyramoe::dist
