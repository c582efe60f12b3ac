// Twins of the load-balancing loss and the router z-loss.
//
// Sums run over fixed blocks of one routing group, then over the blocks in order, in a type one
// step wider than the data: at uniform probabilities the balance loss comes out as 1, exactly where
// 1 / E is exact.
#include <cmath>
#include <vector>

#include "core/cpu/pack.h"
#include "core/kernels/moe.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {
namespace {

constexpr int64_t kTokenBlock = 256;

template <class A>
using Wide = std::conditional_t<std::is_same_v<A, double>, long double, double>;

// Per (block, expert): the sum of probabilities and the number of choices counted. A block never
// leaves its group.
template <class W>
struct Parts {
  int64_t per_group;
  std::vector<W> probability;
  std::vector<int64_t> choices;
};

template <class T>
Parts<Wide<Acc<T>>> sum_blocks(const T* p, const int32_t* expert, int64_t rows, int64_t experts,
                               int64_t k, int64_t counted, int64_t group_rows) {
  using W = Wide<Acc<T>>;
  const int64_t per_group = (group_rows + kTokenBlock - 1) / kTokenBlock;
  const int64_t blocks = rows / group_rows * per_group;
  Parts<W> parts{per_group, std::vector<W>(static_cast<size_t>(blocks * experts)),
                 std::vector<int64_t>(static_cast<size_t>(blocks * experts))};
  parallel_for(blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      W* sum = parts.probability.data() + b * experts;
      int64_t* choices = parts.choices.data() + b * experts;
      const int64_t start = b / per_group * group_rows, stop = start + group_rows;
      const int64_t begin = start + b % per_group * kTokenBlock;
      for (int64_t n = begin; n < std::min(begin + kTokenBlock, stop); ++n) {
        for (int64_t e = 0; e < experts; ++e) sum[e] += static_cast<W>(p[n * experts + e]);
        for (int64_t j = 0; j < counted; ++j) ++choices[expert[n * k + j]];
      }
    }
  });
  return parts;
}

}  // namespace

void balance_loss_forward(const Tensor& p, const Tensor& expert, int64_t group_rows,
                          bool all_choices, Tensor& loss, Tensor& share) {
  const int64_t rows = p.dim(0), experts = p.dim(1), k = expert.dim(1);
  PM_CHECK(group_rows >= 1 && rows > 0 && rows % group_rows == 0, "balance_loss: groups of ",
           group_rows, " rows do not divide ", rows, " rows");
  const int64_t counted = all_choices ? k : 1, groups = rows / group_rows;
  visit_floating(p.dtype(), [&]<class T>() {
    using W = Wide<Acc<T>>;
    const auto parts =
        sum_blocks(p.data<T>(), expert.data<int32_t>(), rows, experts, k, counted, group_rows);
    T* ps = share.data<T>();
    const W size = static_cast<W>(group_rows), choices_made = static_cast<W>(group_rows * counted);
    W total = 0;
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t e = 0; e < experts; ++e) {
        W sum = 0;
        int64_t choices = 0;
        for (int64_t b = g * parts.per_group; b < (g + 1) * parts.per_group; ++b) {
          sum += parts.probability[static_cast<size_t>(b * experts + e)];
          choices += parts.choices[static_cast<size_t>(b * experts + e)];
        }
        const W part = static_cast<W>(choices) / choices_made;
        ps[g * experts + e] = static_cast<T>(static_cast<Acc<T>>(part));
        total += sum / size * part;
      }
    }
    total *= static_cast<W>(experts) / static_cast<W>(groups);
    loss.data<T>()[0] = static_cast<T>(static_cast<Acc<T>>(total));
  });
}

void balance_loss_backward(const Tensor& dloss, const Tensor& share, int64_t group_rows,
                           Tensor& dp) {
  const int64_t rows = dp.dim(0), experts = dp.dim(1);
  visit_floating(dp.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const A factor =
        static_cast<A>(dloss.data<T>()[0]) * static_cast<A>(experts) / static_cast<A>(rows);
    const T* ps = share.data<T>();
    T* pd = dp.data<T>();
    parallel_for(rows, rows_grain(experts), [=](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* part = ps + n / group_rows * experts;
        for (int64_t e = 0; e < experts; ++e) {
          pd[n * experts + e] = static_cast<T>(factor * static_cast<A>(part[e]));
        }
      }
    });
  });
}

void z_loss_forward(const Tensor& logits, Tensor& loss, Tensor& lse) {
  const int64_t rows = logits.dim(0), experts = logits.dim(1);
  PM_CHECK(rows > 0, "z_loss: no tokens");
  visit_floating(logits.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T* px = logits.data<T>();
    T* pl = lse.data<T>();
    parallel_for(rows, rows_grain(experts), [=](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* row = px + n * experts;
        const A top = max_of(row, 0, experts);
        A sum = 0;
        for (int64_t e = 0; e < experts; ++e) sum += std::exp(static_cast<A>(row[e]) - top);
        pl[n] = static_cast<T>(top + std::log(sum));
      }
    });
    Wide<A> total = 0;
    for (int64_t n = 0; n < rows; ++n) {
      const auto value = static_cast<Wide<A>>(pl[n]);
      total += value * value;
    }
    loss.data<T>()[0] = static_cast<T>(static_cast<A>(total / static_cast<Wide<A>>(rows)));
  });
}

void z_loss_backward(const Tensor& dloss, const Tensor& logits, const Tensor& lse,
                     Tensor& dlogits) {
  const int64_t rows = logits.dim(0), experts = logits.dim(1);
  visit_floating(logits.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const A factor = 2 * static_cast<A>(dloss.data<T>()[0]) / static_cast<A>(rows);
    const T *px = logits.data<T>(), *pl = lse.data<T>();
    T* pd = dlogits.data<T>();
    parallel_for(rows, rows_grain(experts), [=](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const A z = static_cast<A>(pl[n]);
        for (int64_t i = n * experts; i < (n + 1) * experts; ++i) {
          pd[i] = static_cast<T>(factor * z * std::exp(static_cast<A>(px[i]) - z));
        }
      }
    });
  });
}

}  // namespace pyramoe::kernels::cpu
