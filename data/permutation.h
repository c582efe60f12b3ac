// A random order of n things that is never stored: place i of the order is computed from i alone.
//
// One idea: a Feistel network is a bijection whatever its round function is. It permutes the next
// power of four; a value that falls outside [0, n) is put in again until it falls inside, which
// keeps it a bijection on [0, n).
#pragma once

#include <bit>
#include <cstdint>

#include "core/error.h"
#include "core/rng.h"

namespace pyramoe::data {

class Permutation {
 public:
  Permutation(int64_t n, const RngKey& key) : n_(static_cast<uint64_t>(n)), key_(key) {
    PM_CHECK(n > 0, "Permutation: of ", n, " things");
    half_ = static_cast<uint32_t>(std::bit_width(n_ - 1) + 1) / 2;
    if (half_ == 0) half_ = 1;
  }

  int64_t operator()(int64_t i) const {
    PM_CHECK(i >= 0 && static_cast<uint64_t>(i) < n_, "Permutation: place ", i, " of ", n_);
    auto x = static_cast<uint64_t>(i);
    do {
      x = rounds(x);
    } while (x >= n_);
    return static_cast<int64_t>(x);
  }

 private:
  static constexpr uint64_t kRounds = 6;

  uint64_t rounds(uint64_t x) const {
    const uint64_t mask = (uint64_t{1} << half_) - 1;
    uint64_t left = x >> half_, right = x & mask;
    for (uint64_t round = 0; round < kRounds; ++round) {
      const Philox4 noise = philox(key_, round << 56 | right);
      const uint64_t word = static_cast<uint64_t>(noise.v[1]) << 32 | noise.v[0];
      const uint64_t next = left ^ (word & mask);
      left = right;
      right = next;
    }
    return left << half_ | right;
  }

  uint64_t n_;
  RngKey key_;
  uint32_t half_ = 1;  // bits of each half
};

}  // namespace pyramoe::data
