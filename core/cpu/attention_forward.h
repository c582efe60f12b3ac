// One head's forward attention: blocks of queries against blocks of keys with a running softmax.
//
// The plain form computes scores as (keys, queries), so that a register's lanes are queries and no
// sum crosses lanes. Up to four queries (decoding) read keys and values where they lie instead.
// Both forms do the same operations on each query in the same order: the results are the same bits.
#pragma once

#include "core/cpu/attention_tiles.h"
#include "core/cpu/gemm_buffer.h"

namespace pyramoe::attention {

// Queries 0..queries-1 stand at positions first, first + 1, …; keys and values at 0, 1, ….
template <class T, class A>
struct Forward {
  Rows<const T> q, k, v;
  Rows<T> y;
  A* lse = nullptr;  // (queries), or null
  int64_t queries = 0, first = 0, dim = 0;
  A scale = 1;
  Dropper drop;
};

template <class T, class A>
void write_query(const Forward<T, A>& f, int64_t query, const A* o, A largest, A sum) {
  using V = simd::Vec<A>;
  for (int64_t d = 0; d < f.dim; d += V::lanes) {
    (V::load(o + d, f.dim - d) / V(sum)).store(f.y.row(query) + d, f.dim - d);
  }
  if (f.lse) f.lse[query] = largest + std::log(sum);
}

template <class A>
void scale_row(A* o, int64_t dim, A factor) {
  using V = simd::Vec<A>;
  for (int64_t d = 0; d < dim; d += V::lanes) {
    (V::load(o + d, dim - d) * V(factor)).store(o + d, dim - d);
  }
}

// One query's step over `seen` of `keys` keys: s becomes probabilities, p gets them `stride` apart.
template <class A>
A softmax_row_step(A* s, int64_t seen, int64_t keys, A scale, A& largest, A& sum, A* p,
                   int64_t stride) {
  using V = simd::Vec<A>;
  const A before = largest;
  for (int64_t k = 0; k < seen; ++k) largest = std::max(largest, s[k] *= scale);
  A total = 0;
  for (int64_t k = 0; k < seen; k += V::lanes) {
    const int64_t n = std::min<int64_t>(V::lanes, seen - k);
    simd::exp(V::load(s + k, n) - V(largest)).store(s + k, n);
    for (int64_t i = k; i < k + n; ++i) total += s[i];
  }
  for (int64_t k = 0; k < keys; ++k) p[k * stride] = k < seen ? s[k] : A(0);
  A shrink[V::lanes];
  simd::exp(V(before) - V(largest)).store(shrink);
  sum = std::fma(sum, shrink[0], total);
  return shrink[0];
}

// At most gemm::kMaxSlimRows queries.
template <class T, class A>
void forward_slim(const gemm::Kernels<A>& table, const Forward<T, A>& f, gemm::Buffer& buffer) {
  const int64_t n = f.queries, dim = f.dim;
  A* q = buffer.get<A>(2 * n * dim + 2 * n * kBlock + kSlack);
  A *o = q + n * dim + kSlack, *s = o + n * dim, *p = s + n * kBlock;
  A largest[gemm::kMaxSlimRows], sum[gemm::kMaxSlimRows] = {};
  std::fill_n(largest, gemm::kMaxSlimRows, -std::numeric_limits<A>::infinity());
  std::fill_n(o, n * dim, A(0));
  const auto rows = static_cast<size_t>(n);
  if constexpr (std::is_same_v<T, A>) {
    table.pack_along(f.q.data, f.q.ld, n, dim, q, n);
  } else {
    table.pack_along_bf16(f.q.data, f.q.ld, n, dim, q, n);
  }
  for (int64_t k0 = 0; k0 < f.first + n; k0 += kBlock) {
    const int64_t keys = std::min(kBlock, f.first + n - k0);
    if constexpr (std::is_same_v<T, A>) {
      table.slim_along[rows](dim, q, f.k.row(k0), f.k.ld, s, kBlock, keys, false);
    } else {
      table.slim_along_bf16[rows](dim, q, f.k.row(k0), f.k.ld, s, kBlock, keys, false);
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t seen = std::clamp<int64_t>(f.first + i + 1 - k0, 0, keys);
      scale_row(
          o + i * dim, dim,
          softmax_row_step(s + i * kBlock, seen, keys, f.scale, largest[i], sum[i], p + i, n));
      if (f.drop.on()) f.drop.apply(p + i, 1, n, f.first + i, 1, k0, keys);
    }
    if constexpr (std::is_same_v<T, A>) {
      table.slim_across[rows](keys, p, f.v.row(k0), f.v.ld, o, dim, dim, true);
    } else {
      table.slim_across_bf16[rows](keys, p, f.v.row(k0), f.v.ld, o, dim, dim, true);
    }
  }
  for (int64_t i = 0; i < n; ++i) write_query(f, i, o + i * dim, largest[i], sum[i]);
}

// The parts of this thread's buffer.
template <class A>
struct ForwardScratch {
  int64_t padded;
  A *keys, *values, *q, *s, *o;
  ForwardScratch(gemm::Buffer& buffer, int64_t dim, int64_t padded_dim, int64_t key_count)
      : padded(padded_dim) {
    const int64_t blocks = blocks_of(key_count);
    keys = buffer.get<A>((blocks + 1) * kBlock * (dim + padded) + kBlock * kBlock + kSlack);
    values = keys + blocks * kBlock * dim;  // (blocks, dim, kBlock), then (keys, padded)
    q = values + blocks * kBlock * padded;  // (dim, kBlock)
    o = q + kBlock * dim;                   // (kBlock, padded)
    s = o + kBlock * padded;                // (kBlock, kBlock), [key][query]
  }
};

// One block of queries, from its packed form to the rows of y.
template <class T, class A>
void forward_block(const gemm::Kernels<A>& table, const Forward<T, A>& f, int64_t q0,
                   const ForwardScratch<A>& m) {
  const int64_t queries = std::min(kBlock, f.queries - q0), position = f.first + q0;
  Running<A> run;
  pack_columns<T, A>(table, f.q, q0, queries, f.dim, m.q);
  std::fill_n(m.o, queries * m.padded, A(0));
  for (int64_t k0 = 0; k0 < position + queries; k0 += kBlock) {
    const int64_t keys = std::min(kBlock, position + queries - k0);
    const int64_t first_seen = position - k0 + 1;  // by query 0; one more by each next
    for_panels(table, keys, [&](int64_t begin, int64_t end) {
      // Queries before begin - first_seen + 1 see none of these keys.
      const int64_t idle = std::max<int64_t>(0, begin - first_seen + 1);
      panel_product(table, begin, end, idle / table.tile_cols * table.tile_cols, queries, f.dim,
                    m.keys + k0 * f.dim, kBlock, m.q, kBlock, m.s, kBlock, false);
    });
    softmax_step(m.s, keys, queries, first_seen, f.scale, run);
    if (f.drop.on()) f.drop.apply(m.s, 1, kBlock, position, queries, k0, keys);
    for (int64_t i = 0; i < queries; ++i) scale_row(m.o + i * m.padded, m.padded, run.shrink[i]);
    for_panels(table, queries, [&](int64_t begin, int64_t end) {
      const int64_t seen = std::min(keys, first_seen + end - 1);  // the rest adds exact zeros
      if (seen <= 0) return;
      panel_product(table, begin, end, 0, m.padded, seen, m.s, kBlock, m.values + k0 * m.padded,
                    m.padded, m.o, m.padded, true);
    });
  }
  for (int64_t i = 0; i < queries; ++i) {
    write_query(f, q0 + i, m.o + i * m.padded, run.largest[i], run.sum[i]);
  }
}

template <class T, class A>
void forward(const Forward<T, A>& f, gemm::Buffer& buffer) {
  const gemm::Kernels<A>& table = gemm::kernels<A>();
  if (f.queries <= gemm::kMaxSlimRows) return forward_slim(table, f, buffer);
  const int64_t keys = f.first + f.queries;
  const int64_t padded = (f.dim + table.tile_cols - 1) / table.tile_cols * table.tile_cols;
  const ForwardScratch<A> m(buffer, f.dim, padded, keys);
  for (int64_t k0 = 0; k0 < keys; k0 += kBlock) {
    const int64_t n = std::min(kBlock, keys - k0);
    pack_columns<T, A>(table, f.k, k0, n, f.dim, m.keys + k0 * f.dim);
    pack_rows<T, A>(table, f.v, k0, n, f.dim, padded, m.values + k0 * padded);
  }
  for (int64_t q0 = 0; q0 < f.queries; q0 += kBlock) forward_block(table, f, q0, m);
}

}  // namespace pyramoe::attention
