#include "dist/pairwise_sum.h"

#include <utility>

#include "core/kernels/elementwise.h"

namespace pyramoe::dist {

// Like counting in binary: where a bit is set, the two sums become one of twice the length.
void PairwiseSum::add(const Tensor& x) {
  const auto set = [&](size_t i) { return (count_ >> i & 1) != 0; };
  if (level_.empty()) level_.emplace_back();
  if (!set(0)) {
    if (!level_[0].defined()) level_[0] = empty_like(x);
    level_[0].copy_from(x);
  } else {
    kernels::accumulate(x, level_[0]);
    size_t i = 1;
    for (; set(i); ++i) kernels::accumulate(level_[i - 1], level_[i]);
    if (i == level_.size()) level_.emplace_back();
    std::swap(level_[i - 1], level_[i]);
  }
  ++count_;
}

void PairwiseSum::take(Tensor sum) {
  PM_CHECK(count_ > 0, "PairwiseSum: nothing was added");
  bool begun = false;
  for (size_t i = 0; i < level_.size(); ++i) {
    if ((count_ >> i & 1) == 0) continue;
    if (begun) {
      kernels::accumulate(level_[i], sum);
    } else {
      sum.copy_from(level_[i]);
    }
    begun = true;
  }
  count_ = 0;
}

}  // namespace pyramoe::dist
