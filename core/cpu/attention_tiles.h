// What both directions of attention are made of: packed blocks of 64 rows, products of blocks
// through the GEMM kernels, one step of the running softmax, the dropout mask.
//
// A token's result must not depend on who travels with it. So keys are always met in blocks that
// start at multiples of kBlock, a masked key adds an exact zero, and every sum is a chain over
// keys.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/cpu/gemm_kernels.h"
#include "core/cpu/simd.h"
#include "core/rng.h"

namespace pyramoe::attention {

constexpr int64_t kBlock = 64;  // queries or keys in a block
constexpr int64_t kSlack = 16;  // elements packing may write behind its end

inline int64_t blocks_of(int64_t n) { return (n + kBlock - 1) / kBlock; }

// One head's vectors: row t at data + t * ld, Dh elements.
template <class T>
struct Rows {
  T* data = nullptr;
  int64_t ld = 0;
  T* row(int64_t t) const { return data + t * ld; }
};

// x rows [first, first + n) as (Dh, kBlock): element (d, t) at [d * kBlock + t], zeros behind n.
template <class S, class A>
void pack_columns(const gemm::Kernels<A>& table, Rows<const S> x, int64_t first, int64_t n,
                  int64_t dim, A* out) {
  if constexpr (std::is_same_v<S, A>) {
    table.pack_along(x.row(first), x.ld, n, dim, out, kBlock);
  } else {
    table.pack_along_bf16(x.row(first), x.ld, n, dim, out, kBlock);
  }
}

// x rows [first, first + n) as (n, padded), zeros behind Dh.
template <class S, class A>
void pack_rows(const gemm::Kernels<A>& table, Rows<const S> x, int64_t first, int64_t n,
               int64_t dim, int64_t padded, A* out) {
  if constexpr (std::is_same_v<S, A>) {
    table.pack_across(x.row(first), x.ld, dim, n, out, padded);
  } else {
    table.pack_across_bf16(x.row(first), x.ld, dim, n, out, padded);
  }
}

// c rows [begin, end) (+)= aᵀ b over k, columns [c0, cols).   a (k, rows), b (k, cols), both packed
template <class A>
void panel_product(const gemm::Kernels<A>& table, int64_t begin, int64_t end, int64_t c0,
                   int64_t cols, int64_t k, const A* a, int64_t lda, const A* b, int64_t ldb, A* c,
                   int64_t ldc, bool add) {
  gemm::Ahead none{reinterpret_cast<const char*>(a), 0, 1, 1, 0};
  for (int64_t j = c0; j < cols; j += table.tile_cols) {
    table.tile[end - begin](k, a + begin, lda, b + j, ldb, c + begin * ldc + j, ldc,
                            std::min<int64_t>(table.tile_cols, cols - j), add, none);
  }
}

// Calls f(begin, end) for near-equal panels of `rows` that a register tile can take.
template <class A, class F>
void for_panels(const gemm::Kernels<A>& table, int64_t rows, const F& f) {
  const int64_t count = (rows + table.tile_rows - 1) / table.tile_rows;
  for (int64_t i = 0; i < count; ++i) f(i * rows / count, (i + 1) * rows / count);
}

// Which probabilities are kept: element `id` where its uniform number is >= p.
struct Dropper {
  double p = 0;
  RngKey key{};
  uint64_t first = 0;  // id of (query 0, key 0) of this head
  uint64_t tokens = 0;

  bool on() const { return p > 0; }
  // x(query, key) *= keep / (1 - p) for a block that starts at (q0, k0).
  template <class A>
  void apply(A* x, int64_t query_stride, int64_t key_stride, int64_t q0, int64_t queries,
             int64_t k0, int64_t keys) const {
    const auto factor = static_cast<A>(1 / (1 - p));
    const auto threshold = static_cast<uint32_t>(std::ceil(p * 16777216.0));
    for (int64_t q = 0; q < queries; ++q) {
      const uint64_t base = first + static_cast<uint64_t>(q0 + q) * tokens;
      uint64_t counter = ~uint64_t{0};
      Philox4 words{};
      for (int64_t k = 0; k < keys; ++k) {
        const uint64_t id = base + static_cast<uint64_t>(k0 + k);
        if (id >> 2 != counter) words = philox(key, counter = id >> 2);
        A& at = x[q * query_stride + k * key_stride];
        at = words.v[id & 3] >> 8 >= threshold ? at * factor : A(0);
      }
    }
  }
};

// The running softmax of kBlock queries: largest score, sum of exponentials, and by how much the
// last step shrank what came before.
template <class A>
struct Running {
  alignas(64) A largest[kBlock];
  alignas(64) A sum[kBlock];
  alignas(64) A shrink[kBlock];
  Running() {
    std::fill_n(largest, kBlock, -std::numeric_limits<A>::infinity());
    std::fill_n(sum, kBlock, A(0));
  }
};

// Turns scores into probabilities (before the final division) for one block of keys, and moves the
// running softmax on. Query q sees keys [0, seen(q)) of the block, seen(q) = first_seen + q.
//   s (keys, kBlock): scores of key k and query q at [k * kBlock + q]
template <class A>
void softmax_step(A* s, int64_t keys, int64_t queries, int64_t first_seen, A scale,
                  Running<A>& run) {
  using V = simd::Vec<A>;
  const V minus_infinity(-std::numeric_limits<A>::infinity());
  A counted[V::lanes];
  for (int i = 0; i < V::lanes; ++i) counted[i] = static_cast<A>(i);
  for (int64_t q = 0; q < queries; q += V::lanes) {
    // Keys below `all` are seen by every lane, keys from `some` on by none.
    const int64_t all = std::clamp<int64_t>(first_seen + q, 0, keys);
    const int64_t some = std::clamp<int64_t>(first_seen + q + V::lanes - 1, 0, keys);
    const V seen = V::load(counted) + V(static_cast<A>(first_seen + q));
    const V before = V::load(run.largest + q);
    V largest = before;
    for (int64_t k = 0; k < all; ++k) {
      const V x = V::load(s + k * kBlock + q) * V(scale);
      x.store(s + k * kBlock + q);
      largest = simd::max(largest, x);
    }
    for (int64_t k = all; k < some; ++k) {
      const V x = simd::less(V(static_cast<A>(k)), seen, V::load(s + k * kBlock + q) * V(scale),
                             minus_infinity);
      x.store(s + k * kBlock + q);
      largest = simd::max(largest, x);
    }
    V sum(A(0));
    for (int64_t k = 0; k < some; ++k) {
      const V p = simd::exp(V::load(s + k * kBlock + q) - largest);
      p.store(s + k * kBlock + q);
      sum = sum + p;
    }
    for (int64_t k = some; k < keys; ++k) V(A(0)).store(s + k * kBlock + q);
    const V shrink = simd::exp(before - largest);
    simd::fma(V::load(run.sum + q), shrink, sum).store(run.sum + q);
    shrink.store(run.shrink + q);
    largest.store(run.largest + q);
  }
}

}  // namespace pyramoe::attention
