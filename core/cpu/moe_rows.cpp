// Twins that decide which choices keep a place and which segment row each one gets.
//
// Groups are independent, so capacity runs a group at a time. The sort is a counting sort in three
// passes over fixed blocks of tokens: count, one scan over (expert, block), fill. Blocks are cut by
// shape, so rows never depend on the number of threads.
#include <algorithm>
#include <vector>

#include "core/cpu/pack.h"
#include "core/kernels/moe.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {
namespace {

constexpr int64_t kTokenBlock = 512;

// One group's choices and where to write who stays.
struct Group {
  const int32_t* expert;  // (S, k)
  uint8_t* kept;          // (S, k)
  int64_t rows, k, experts, capacity;
};

void keep_by_position(const Group& g) {
  std::vector<int64_t> taken(static_cast<size_t>(g.experts));
  for (int64_t j = 0; j < g.k; ++j) {
    for (int64_t i = j; i < g.rows * g.k; i += g.k) {
      g.kept[i] = taken[static_cast<size_t>(g.expert[i])]++ < g.capacity;
    }
  }
}

// Keeps each expert's `capacity` largest by `priority(choice index)`; ties to the lower token.
template <class Priority>
void keep_by_priority(const Group& g, const Priority& priority) {
  using P = decltype(priority(int64_t{0}));
  struct Candidate {
    P priority;
    int64_t choice;
  };
  std::vector<std::vector<Candidate>> wants(static_cast<size_t>(g.experts));
  for (int64_t i = 0; i < g.rows * g.k; ++i) {
    wants[static_cast<size_t>(g.expert[i])].push_back({priority(i), i});
    g.kept[i] = 1;
  }
  for (auto& all : wants) {
    if (static_cast<int64_t>(all.size()) <= g.capacity) continue;
    const auto cut = all.begin() + g.capacity;
    std::nth_element(all.begin(), cut, all.end(), [](const Candidate& a, const Candidate& b) {
      return a.priority > b.priority || (a.priority == b.priority && a.choice < b.choice);
    });
    for (auto it = cut; it != all.end(); ++it) g.kept[it->choice] = 0;
  }
}

}  // namespace

void keep_within_capacity(const Tensor& expert, const Tensor& score, int64_t experts,
                          int64_t group_rows, int64_t capacity, DropBy order, const RngKey& key,
                          int64_t first_row, Tensor& kept) {
  const int64_t rows = expert.dim(0), k = expert.dim(1);
  PM_CHECK(capacity >= 1, "keep_within_capacity: capacity ", capacity, ", expected at least 1");
  PM_CHECK(group_rows >= 1 && rows % group_rows == 0, "keep_within_capacity: groups of ",
           group_rows, " rows do not divide ", rows, " rows");
  const int32_t* pe = expert.data<int32_t>();
  uint8_t* pk = kept.data<uint8_t>();
  visit_floating(score.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T* ps = score.data<T>();
    parallel_for(rows / group_rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i * group_rows * k;
        const Group g{pe + first, pk + first, group_rows, k, experts, capacity};
        if (order == DropBy::position) {
          keep_by_position(g);
        } else if (order == DropBy::probability) {
          keep_by_priority(g, [&](int64_t c) {  // a NaN would have no place in an order
            const A s = static_cast<A>(ps[first + c]);
            return s == s ? s : -std::numeric_limits<A>::infinity();
          });
        } else {
          keep_by_priority(g, [&](int64_t c) {
            const int64_t token = first_row + i * group_rows + c / k;
            return random_u32(key, static_cast<uint64_t>(token * experts + g.expert[c]));
          });
        }
      }
    });
  });
}

void assign_rows(const Tensor& expert, const Tensor& kept, Tensor& row, Tensor& offsets,
                 Tensor& load) {
  const int64_t rows = expert.dim(0), k = expert.dim(1), experts = load.dim(0);
  PM_CHECK(rows * k < int64_t{1} << 31, "assign_rows: ", rows * k, " choices do not fit in i32");
  PM_CHECK(offsets.numel() == experts + 1, "assign_rows: ", offsets.numel(), " offsets for ",
           experts, " experts");
  const int32_t* pe = expert.data<int32_t>();
  const uint8_t* pk = kept.defined() ? kept.data<uint8_t>() : nullptr;
  int32_t *pr = row.data<int32_t>(), *po = offsets.data<int32_t>(), *pl = load.data<int32_t>();
  const int64_t blocks = (rows + kTokenBlock - 1) / kTokenBlock;
  // (blocks, E): kept choices, then, after the scan, the next free row; and all choices.
  std::vector<int32_t> next(static_cast<size_t>(blocks * experts));
  std::vector<int32_t> all(pk ? next.size() : 0);
  parallel_for(rows, kTokenBlock, [&](int64_t begin, int64_t end) {
    const int64_t block = begin / kTokenBlock;
    int32_t* count = next.data() + block * experts;
    int32_t* count_all = pk ? all.data() + block * experts : nullptr;
    for (int64_t i = begin * k; i < end * k; ++i) {
      PM_CHECK(pe[i] >= 0 && pe[i] < experts, "assign_rows: expert ", pe[i], " of ", experts);
      if (pk) ++count_all[pe[i]];
      if (!pk || pk[i]) ++count[pe[i]];
    }
  });
  int32_t total = 0;
  for (int64_t e = 0; e < experts; ++e) {
    po[e] = total;
    pl[e] = 0;
    for (int64_t b = 0; b < blocks; ++b) {
      int32_t& here = next[static_cast<size_t>(b * experts + e)];
      pl[e] += pk ? all[static_cast<size_t>(b * experts + e)] : here;
      total += std::exchange(here, total);
    }
  }
  po[experts] = total;
  parallel_for(rows, kTokenBlock, [&](int64_t begin, int64_t end) {
    int32_t* free_row = next.data() + begin / kTokenBlock * experts;
    for (int64_t i = begin * k; i < end * k; ++i) pr[i] = !pk || pk[i] ? free_row[pe[i]]++ : -1;
  });
}

void assign_rows_by_position(const Tensor& expert, int64_t group_rows, int64_t capacity,
                             Tensor& row, Tensor& offsets, Tensor& load) {
  PM_CHECK(expert.dim(1) == 1, "assign_rows_by_position: ", expert.dim(1), " choices a token, ",
           "expected 1");
  Tensor kept(expert.shape(), DType::u8), unused(expert.shape(), DType::f32);
  keep_within_capacity(expert, unused, load.dim(0), group_rows, capacity, DropBy::position, {}, 0,
                       kept);
  assign_rows(expert, kept, row, offsets, load);
}

void padded_slots(const Tensor& expert, const Tensor& row, const Tensor& offsets, int64_t width,
                  Tensor& slot) {
  const int32_t *pe = expert.data<int32_t>(), *pr = row.data<int32_t>();
  const int32_t* po = offsets.data<int32_t>();
  int32_t* ps = slot.data<int32_t>();
  for (int64_t i = 0; i < row.numel(); ++i) {
    const int64_t place = pr[i] < 0 ? -1 : pr[i] - po[pe[i]];
    PM_CHECK(place < width, "padded_slots: place ", place, " of a segment of width ", width);
    ps[i] = pr[i] < 0 ? -1 : static_cast<int32_t>(pe[i] * width + place);
  }
}

}  // namespace pyramoe::kernels::cpu
