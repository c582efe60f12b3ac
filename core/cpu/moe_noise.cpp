// Twins of the routing noise. An element's number is a function of its global place alone, so a
// batch cut in two draws what the whole batch drew.
#include <cmath>

#include "core/cpu/pack.h"
#include "core/kernels/moe.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {
namespace {

// f(i, word) for every element i of rows that start at global element `first`. One Philox counter
// serves four neighbours.
template <class F>
void each_word(int64_t first, int64_t count, const RngKey& key, const F& f) {
  parallel_for(count, kGrain, [&](int64_t begin, int64_t end) {
    Philox4 words{};
    for (int64_t i = begin; i < end; ++i) {
      const auto id = static_cast<uint64_t>(first + i);
      if (i == begin || (id & 3) == 0) words = philox(key, id >> 2);
      f(i, words.v[id & 3]);
    }
  });
}

}  // namespace

void jitter(const Tensor& x, double width, const RngKey& key, int64_t first_row, Tensor& y) {
  PM_CHECK(x.shape() == y.shape() && x.dtype() == y.dtype(), "jitter: x is ", to_string(x.shape()),
           ", y ", to_string(y.shape()));
  visit_floating(x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T* px = x.data<T>();
    T* py = y.data<T>();
    const A low = static_cast<A>(1 - width), range = static_cast<A>(2 * width);
    each_word(first_row * x.dim(-1), x.numel(), key, [=](int64_t i, uint32_t word) {
      const A u = low + range * static_cast<A>(uniform_from(word));
      py[i] = static_cast<T>(static_cast<A>(px[i]) * u);
    });
  });
}

void add_gumbel(const Tensor& x, const RngKey& key, int64_t first_row, Tensor& y) {
  PM_CHECK(x.shape() == y.shape() && x.dtype() == y.dtype(), "add_gumbel: x is ",
           to_string(x.shape()), ", y ", to_string(y.shape()));
  visit_floating(x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T* px = x.data<T>();
    T* py = y.data<T>();
    each_word(first_row * x.dim(-1), x.numel(), key, [=](int64_t i, uint32_t word) {
      // The middle of one of 2^32 equal steps: never 0 or 1, so both logarithms are finite.
      const double u = (static_cast<double>(word) + 0.5) * (1.0 / 4294967296.0);
      py[i] = static_cast<T>(static_cast<A>(px[i]) + static_cast<A>(-std::log(-std::log(u))));
    });
  });
}

}  // namespace pyramoe::kernels::cpu
