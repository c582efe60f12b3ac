#include "dist/reduce_tree.h"

#include <algorithm>

#include "core/parallel.h"

namespace pyramoe::dist {
namespace {

constexpr int64_t kBlock = 1024;  // elements added at a time: stays in the cache

template <class F>
void visit_numbers(DType type, F&& f) {
  if (type == DType::i64) return f.template operator()<int64_t, int64_t>();
  if (type == DType::i32) return f.template operator()<int32_t, int32_t>();
  visit_floating(type, [&]<class T>() { f.template operator()<T, Acc<T>>(); });
}

// sum[0, n) = the tree over parts [first, last) of elements [at, at + n).
template <class T, class A>
void add_parts(const std::vector<const T*>& parts, size_t first, size_t last, int64_t at, int64_t n,
               A* sum) {
  if (last - first == 1) {
    const T* x = parts[first] + at;
    for (int64_t i = 0; i < n; ++i) sum[i] = static_cast<A>(x[i]);
    return;
  }
  size_t half = 1;
  while (half * 2 < last - first) half *= 2;
  add_parts<T, A>(parts, first, first + half, at, n, sum);
  A other[kBlock];
  add_parts<T, A>(parts, first + half, last, at, n, other);
  for (int64_t i = 0; i < n; ++i) sum[i] += other[i];
}

template <class T>
std::vector<const T*> pointers(const Tensors& parts, const Tensor& out) {
  std::vector<const T*> all;
  for (const Tensor& part : parts) {
    PM_CHECK(part.numel() == out.numel(), "sum_tree: parts of ", part.numel(), " and ", out.numel(),
             " elements");
    all.push_back(part.data<T>());
  }
  return all;
}

}  // namespace

void sum_tree(const Tensors& parts, const Tensor& out) {
  visit_numbers(out.dtype(), [&]<class T, class A>() {
    const std::vector<const T*> from = pointers<T>(parts, out);
    T* to = out.data<T>();
    parallel_for(out.numel(), 16 * kBlock, [&](int64_t begin, int64_t end) {
      A sum[kBlock];
      for (int64_t at = begin; at < end; at += kBlock) {
        const int64_t n = std::min(kBlock, end - at);
        add_parts<T, A>(from, 0, from.size(), at, n, sum);
        for (int64_t i = 0; i < n; ++i) to[at + i] = static_cast<T>(sum[i]);
      }
    });
  });
}

void max_of_parts(const Tensors& parts, const Tensor& out) {
  visit_numbers(out.dtype(), [&]<class T, class A>() {
    const std::vector<const T*> from = pointers<T>(parts, out);
    T* to = out.data<T>();
    for (int64_t i = 0; i < out.numel(); ++i) {
      A most = static_cast<A>(from[0][i]);
      for (const T* part : from) most = std::max(most, static_cast<A>(part[i]));
      to[i] = static_cast<T>(most);
    }
  });
}

}  // namespace pyramoe::dist
