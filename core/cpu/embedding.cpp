// Table look-up twins. The backward pass first sorts the places of each row (a stable counting
// sort), so a table row is summed by one thread, in order of n, and written once.
#include "core/kernels/embedding.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include "core/cpu/pack.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {
namespace {

void check_ids(const char* what, const Tensor& index, int64_t size, const char* advice) {
  const int32_t* id = index.data<int32_t>();
  for (int64_t n = 0; n < index.numel(); ++n) {
    if (id[n] >= 0 && id[n] < size) continue;
    fail(Exit::data, "embedding: ", what, " ", id[n], " at place ", n, " is outside [0, ", size,
         "): ", advice);
  }
}

// Which places n look at each row of a table: row v is looked at by order[start[v]] ...
// order[start[v + 1] - 1], in rising order.
struct Places {
  std::vector<int64_t> start, order;
};

Places find_places(const Tensor& index, int64_t rows) {
  const int32_t* id = index.data<int32_t>();
  Places p{std::vector<int64_t>(static_cast<size_t>(rows) + 1),
           std::vector<int64_t>(static_cast<size_t>(index.numel()))};
  for (int64_t n = 0; n < index.numel(); ++n) {
    PM_CHECK(id[n] >= 0 && id[n] < rows, "embedding_backward: index ", id[n], " at place ", n,
             " is outside [0, ", rows, ")");
    ++p.start[static_cast<size_t>(id[n]) + 1];
  }
  std::partial_sum(p.start.begin(), p.start.end(), p.start.begin());
  std::vector<int64_t> next(p.start.begin(), p.start.end() - 1);
  for (int64_t n = 0; n < index.numel(); ++n) {
    p.order[static_cast<size_t>(next[static_cast<size_t>(id[n])]++)] = n;
  }
  return p;
}

// out[0, d) (+)= sum of the rows of dy at `places`.
template <class T, class Y>
void add_rows(const T* dy, std::span<const int64_t> places, int64_t d, bool accumulate, Y* out) {
  using A = Acc<T>;
  constexpr int64_t kColumns = 256;
  A sum[kColumns];
  for (int64_t begin = 0; begin < d; begin += kColumns) {
    const int64_t count = std::min(kColumns, d - begin);
    std::fill(sum, sum + count, A{0});
    for (int64_t n : places) {
      const T* row = dy + n * d + begin;
      each_pack<A>(0, count, [&](auto at) { store(sum, at, load(sum, at) + load(row, at)); });
    }
    for (int64_t j = 0; j < count; ++j) {
      const A value = accumulate ? static_cast<A>(out[begin + j]) + sum[j] : sum[j];
      out[begin + j] = static_cast<Y>(static_cast<Acc<Y>>(value));
    }
  }
}

}  // namespace

void embedding_forward(const Tensor& token, const Tensor& position, const Tensor& token_table,
                       const Tensor& position_table, Tensor& y) {
  const int64_t d = token_table.dim(1), rows = token.numel();
  PM_CHECK(position.numel() == rows && position_table.dim(1) == d && y.numel() == rows * d,
           "embedding: ", rows, " tokens, ", position.numel(), " positions, tables ",
           to_string(token_table.shape()), " and ", to_string(position_table.shape()), ", y ",
           to_string(y.shape()));
  check_ids("token", token, token_table.dim(0),
            "the text was tokenized with another vocabulary than the model's (model.vocab)");
  check_ids("position", position, position_table.dim(0),
            "the sequence is longer than the model's context (model.context)");
  visit_floating(y.dtype(), [&]<class T>() {
    const int32_t *tok = token.data<int32_t>(), *pos = position.data<int32_t>();
    const T *tt = token_table.data<T>(), *pt = position_table.data<T>();
    T* py = y.data<T>();
    parallel_for(rows, rows_grain(d), [=](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T *a = tt + tok[n] * d, *b = pt + pos[n] * d;
        T* out = py + n * d;
        each_pack<Acc<T>>(0, d, [=](auto at) { store(out, at, load(a, at) + load(b, at)); });
      }
    });
  });
}

void embedding_backward(const Tensor& dy, const Tensor& index, bool accumulate, Tensor& dtable) {
  const int64_t rows = dtable.dim(0), d = dtable.dim(1);
  PM_CHECK(dy.numel() == index.numel() * d, "embedding_backward: dy is ", to_string(dy.shape()),
           " for ", index.numel(), " places and rows of ", d);
  const Places places = find_places(index, rows);
  visit_floating(dy.dtype(), [&]<class T>() {
    visit_floating(dtable.dtype(), [&]<class Y>() {
      const T* g = dy.data<T>();
      Y* out = dtable.data<Y>();
      parallel_for(rows, 64, [&](int64_t begin, int64_t end) {
        for (int64_t v = begin; v < end; ++v) {
          const auto i = static_cast<size_t>(v);
          const std::span<const int64_t> here(places.order.data() + places.start[i],
                                              places.order.data() + places.start[i + 1]);
          if (!here.empty()) {
            add_rows(g, here, d, accumulate, out + v * d);
          } else if (!accumulate) {
            std::fill(out + v * d, out + (v + 1) * d, Y{});
          }
        }
      });
    });
  });
}

}  // namespace pyramoe::kernels::cpu
