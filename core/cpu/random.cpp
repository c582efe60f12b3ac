// Dropout's twin. A Philox counter serves four elements; eight counters are stepped side by side,
// each 32-bit word in the low half of a 64-bit lane, where a widening product needs no shuffles.
#include "core/kernels/random.h"

#include <algorithm>
#include <cmath>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "core/cpu/pack.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {
namespace {

using Wide = Pack<uint64_t>;  // four words
constexpr int64_t kWords = 32;

// The full product of the low words; what lies in the high halves does not count.
Wide multiply_low(Wide a, uint32_t b) {
#if defined(__AVX2__)
  return std::bit_cast<Wide>(
      _mm256_mul_epu32(std::bit_cast<__m256i>(a), _mm256_set1_epi64x(static_cast<long long>(b))));
#else
  return (a & uint64_t{0xffffffffu}) * uint64_t{b};
#endif
}

// Four counters on their way through the rounds; only the low halves mean something.
struct Counters {
  Wide c0, c1, c2, c3;

  Counters(const RngKey& key, uint64_t first) {
    const Wide id = splat(first) + Wide{0, 1, 2, 3};
    c0 = id;
    c1 = id >> 32;
    c2 = splat<uint64_t>(key.step);
    c3 = splat<uint64_t>(static_cast<uint32_t>(key.purpose) << 24 ^ key.layer);
  }
  void round(uint32_t k0, uint32_t k1) {
    const Wide p0 = multiply_low(c0, 0xD2511F53u), p1 = multiply_low(c2, 0xCD9E8D57u);
    c0 = (p1 >> 32) ^ c1 ^ uint64_t { k0 };
    c2 = (p0 >> 32) ^ c3 ^ uint64_t { k1 };
    c1 = p1;
    c3 = p0;
  }
  // The sixteen words, counter by counter.
  void write(uint32_t* words) const {
    constexpr uint64_t low = 0xffffffffu;
    const Wide front = (c0 & low) | (c1 << 32), back = (c2 & low) | (c3 << 32);
    const Wide pairs[2] = {__builtin_shufflevector(front, back, 0, 4, 1, 5),
                           __builtin_shufflevector(front, back, 2, 6, 3, 7)};
    std::memcpy(words, pairs, sizeof pairs);
  }
};

// The words of elements 4 * first ... 4 * first + 31, as random_u32 gives them one by one.
void draw_words(const RngKey& key, uint64_t first, uint32_t* words) {
  Counters a(key, first), b(key, first + 4);
  auto k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    a.round(k0, k1);
    b.round(k0, k1);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  a.write(words);
  b.write(words + 16);
}

// y[i] = factor * x[i] where word i is at or above the threshold, for n elements.
template <class T>
void keep_or_drop(const T* x, const uint32_t* words, uint32_t threshold, Acc<T> factor, int64_t n,
                  T* y) {
  using A = Acc<T>;
  if constexpr (sizeof(A) == 4) {
    if (n == kWords) {
      for (int64_t i = 0; i < kWords; i += kLanes<A>) {
        WordPack w;
        std::memcpy(&w, words + i, sizeof w);
        const Pack<A> value = load(x, Whole{i}) * factor;
        store(y, Whole{i}, (w >> 8) >= threshold ? value : Pack<A>{});
      }
      return;
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    const A value = static_cast<A>(x[i]) * factor;
    y[i] = static_cast<T>((words[i] >> 8) >= threshold ? value : A{0});
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
        keep_or_drop(px + (from - first), words + (from - id), threshold, factor, to - from,
                     py + (from - first));
      }
    });
  });
}

}  // namespace pyramoe::kernels::cpu
