// Dropout's twin. Sixteen Philox counters are stepped side by side in plain loops (the compiler
// turns them into vector code); each counter serves four elements.
#include "core/kernels/random.h"

#include <algorithm>
#include <cmath>

#include "core/cpu/pack.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {
namespace {

constexpr int64_t kCounters = 16;
constexpr int64_t kWords = 4 * kCounters;

// The words of elements 4 * first ... 4 * first + 63, as random_u32 gives them one by one.
void draw_words(const RngKey& key, uint64_t first, uint32_t* words) {
  uint32_t c0[kCounters], c1[kCounters], c2[kCounters], c3[kCounters];
  for (int64_t j = 0; j < kCounters; ++j) {
    const uint64_t id = first + static_cast<uint64_t>(j);
    c0[j] = static_cast<uint32_t>(id);
    c1[j] = static_cast<uint32_t>(id >> 32);
    c2[j] = key.step;
    c3[j] = static_cast<uint32_t>(key.purpose) << 24 ^ key.layer;
  }
  auto k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int64_t j = 0; j < kCounters; ++j) {
      const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0[j];
      const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2[j];
      c0[j] = static_cast<uint32_t>(p1 >> 32) ^ c1[j] ^ k0;
      c2[j] = static_cast<uint32_t>(p0 >> 32) ^ c3[j] ^ k1;
      c1[j] = static_cast<uint32_t>(p1);
      c3[j] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int64_t j = 0; j < kCounters; ++j) {
    words[4 * j] = c0[j];
    words[4 * j + 1] = c1[j];
    words[4 * j + 2] = c2[j];
    words[4 * j + 3] = c3[j];
  }
}

}  // namespace

void dropout(const Tensor& x, double p, const RngKey& key, int64_t first_row, Tensor& y) {
  PM_CHECK(p >= 0 && p < 1, "dropout: p = ", p, ", expected a number in [0, 1)");
  PM_CHECK(x.shape() == y.shape() && x.dtype() == y.dtype(), "dropout: x is ", to_string(x.shape()),
           ", y ", to_string(y.shape()));
  if (x.numel() == 0) return;
  // uniform >= p, in whole numbers: the 24 random bits against ceil(p 2^24).
  const auto threshold = static_cast<uint32_t>(std::ceil(p * 16777216.0));
  const int64_t first = first_row * x.dim(-1);  // id of element 0
  visit_floating(x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const auto factor = static_cast<A>(1 / (1 - p));
    const T* px = x.data<T>();
    T* py = y.data<T>();
    parallel_for(x.numel(), kGrain, [=, &key](int64_t begin, int64_t end) {
      uint32_t words[kWords];
      const int64_t last = first + end;
      for (int64_t id = (first + begin) / 4 * 4; id < last; id += kWords) {
        draw_words(key, static_cast<uint64_t>(id) / 4, words);
        const int64_t from = std::max(id, first + begin), to = std::min(id + kWords, last);
        for (int64_t i = from; i < to; ++i) {
          const A value = static_cast<A>(px[i - first]) * factor;
          py[i - first] = static_cast<T>((words[i - id] >> 8) >= threshold ? value : A{0});
        }
      }
    });
  });
}

}  // namespace pyramoe::kernels::cpu
