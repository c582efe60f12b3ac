// Sums over the rows of a matrix, the shape of every bias and norm-weight gradient.
//
// Blocks of 64 rows are summed by whoever is free, each into a row of scratch; the blocks are then
// added in order, column blocks side by side. So the result is the same bits for any thread count.
#pragma once

#include <algorithm>
#include <vector>

#include "core/cpu/pack.h"
#include "core/parallel.h"
#include "core/tensor.h"

namespace pyramoe::kernels::cpu {

inline constexpr int64_t kRowBlock = 64;

// y (+)= sum, from a sum of width A, in y's own dtype.
template <class A>
void write_sum(const A* sum, int64_t begin, int64_t end, bool accumulate, Tensor& y) {
  visit_floating(y.dtype(), [&]<class Y>() {
    Y* py = y.data<Y>();
    for (int64_t j = begin; j < end; ++j) {
      const A value = accumulate ? static_cast<A>(py[j]) + sum[j - begin] : sum[j - begin];
      py[j] = static_cast<Y>(static_cast<Acc<Y>>(value));
    }
  });
}

// For each y of `outputs` (all of d columns, undefined = not wanted): y (+)= the sum over blocks of
// what `block(begin_row, end_row, part)` adds to its d columns; part holds the outputs side by
// side.
template <class A, class F>
void sum_over_rows(int64_t rows, int64_t d, bool accumulate, const std::vector<Tensor*>& outputs,
                   const F& block) {
  const auto width = static_cast<int64_t>(outputs.size()) * d;
  const int64_t blocks = (rows + kRowBlock - 1) / kRowBlock;
  const Tensor scratch({blocks, width}, DTypeOf<A>::value);
  A* parts = scratch.data<A>();
  parallel_for(rows, kRowBlock, [&](int64_t begin, int64_t end) {
    A* part = parts + begin / kRowBlock * width;
    std::fill(part, part + width, A{0});
    block(begin, end, part);
  });
  constexpr int64_t kColumns = 256;
  for (size_t k = 0; k < outputs.size(); ++k) {
    if (!outputs[k] || !outputs[k]->defined()) continue;
    const A* first = parts + static_cast<int64_t>(k) * d;
    parallel_for(d, kColumns, [&](int64_t begin, int64_t end) {
      A sum[kColumns] = {};
      for (int64_t b = 0; b < blocks; ++b) {
        const A* part = first + b * width + begin;
        for (int64_t j = 0; j < end - begin; ++j) sum[j] += part[j];
      }
      write_sum(sum, begin, end, accumulate, *outputs[k]);
    });
  }
}

}  // namespace pyramoe::kernels::cpu
