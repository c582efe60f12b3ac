// One head's backward attention: probabilities are computed again from the saved log-sum-exp.
//
// Blocks are met in rising order of keys, then queries, whatever part of the work a call does; so
// one call for a whole head and many calls for its blocks give the same bits.
//   P = exp(scale q kᵀ - lse)     dV = Pᵀ dY     dP = dY Vᵀ
//   dS = scale P (dP - D), D = row sums of dY * Y     dQ = dS K     dK = dSᵀ Q
#pragma once

#include "core/cpu/attention_tiles.h"
#include "core/cpu/gemm_buffer.h"

namespace pyramoe::attention {

template <class T, class A>
struct Backward {
  Rows<const T> q, k, v, y, dy;
  const A* lse = nullptr;  // (tokens)
  Rows<T> dq, dk, dv;
  int64_t tokens = 0, dim = 0;
  A scale = 1;
  Dropper drop;
};

// A part of the work: these blocks of keys and queries, for these gradients.
struct Part {
  int64_t key_begin, key_end, query_begin, query_end;
  bool dq, dkv;
};

template <class A>
struct BackwardScratch {
  int64_t padded, column_block, row_block;
  A *kt, *vt, *k;                 // per block of keys: kᵀ, vᵀ (dim, kBlock); k (kBlock, padded)
  A *qt, *dyt, *q, *dy, *d, *dq;  // per block of queries; d (kBlock), dq (kBlock, padded)
  A *dk, *dv, *p, *dp, *ds_turned;  // one block each
  BackwardScratch(gemm::Buffer& buffer, int64_t dim, int64_t padded_dim, const Part& part)
      : padded(padded_dim), column_block(dim * kBlock), row_block(kBlock * padded_dim) {
    const int64_t keys = part.key_end - part.key_begin;
    const int64_t queries = part.query_end - part.query_begin;
    const int64_t count = keys * (2 * column_block + row_block) +
                          queries * (2 * column_block + 3 * row_block + kBlock) + 2 * row_block +
                          3 * kBlock * kBlock + kSlack;
    A* next = buffer.get<A>(count);
    const auto take = [&](int64_t n) {
      A* at = next;
      next += n;
      return at;
    };
    kt = take(keys * column_block), vt = take(keys * column_block), k = take(keys * row_block);
    qt = take(queries * column_block), dyt = take(queries * column_block);
    q = take(queries * row_block), dy = take(queries * row_block), d = take(queries * kBlock);
    dq = take(queries * row_block), dk = take(row_block), dv = take(row_block);
    p = take(kBlock * kBlock), dp = take(kBlock * kBlock), ds_turned = take(kBlock * kBlock);
  }
};

template <class T, class A>
void write_rows(Rows<T> to, int64_t first, int64_t n, int64_t dim, const A* from, int64_t ld) {
  using V = simd::Vec<A>;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t d = 0; d < dim; d += V::lanes) {
      V::load(from + i * ld + d, dim - d).store(to.row(first + i) + d, dim - d);
    }
  }
}

template <class T, class A>
void pack_part(const gemm::Kernels<A>& table, const Backward<T, A>& f, const Part& part,
               const BackwardScratch<A>& m) {
  for (int64_t b = part.key_begin; b < part.key_end; ++b) {
    const int64_t at = b - part.key_begin, first = b * kBlock;
    const int64_t n = std::min(kBlock, f.tokens - first);
    pack_columns<T, A>(table, f.k, first, n, f.dim, m.kt + at * m.column_block);
    pack_columns<T, A>(table, f.v, first, n, f.dim, m.vt + at * m.column_block);
    if (part.dq) pack_rows<T, A>(table, f.k, first, n, f.dim, m.padded, m.k + at * m.row_block);
  }
  for (int64_t b = part.query_begin; b < part.query_end; ++b) {
    const int64_t at = b - part.query_begin, first = b * kBlock;
    const int64_t n = std::min(kBlock, f.tokens - first);
    pack_columns<T, A>(table, f.q, first, n, f.dim, m.qt + at * m.column_block);
    pack_columns<T, A>(table, f.dy, first, n, f.dim, m.dyt + at * m.column_block);
    if (part.dkv) {
      pack_rows<T, A>(table, f.q, first, n, f.dim, m.padded, m.q + at * m.row_block);
      pack_rows<T, A>(table, f.dy, first, n, f.dim, m.padded, m.dy + at * m.row_block);
    }
    using V = simd::Vec<A>;
    for (int64_t i = 0; i < n; ++i) {
      V sum(A(0));
      for (int64_t d = 0; d < f.dim; d += V::lanes) {
        const int64_t rest = f.dim - d;
        sum = simd::fma(V::load(f.dy.row(first + i) + d, rest),
                        V::load(f.y.row(first + i) + d, rest), sum);
      }
      m.d[at * kBlock + i] = simd::sum(sum);
    }
  }
}

// p: scores to probabilities; dp: to dS. Both (queries, keys); masked places become zero.
template <class T, class A>
void score_gradients(const Backward<T, A>& f, int64_t key_block, int64_t query_block, int64_t keys,
                     int64_t queries, const A* d, A* p, A* dp) {
  using V = simd::Vec<A>;
  const int64_t q0 = query_block * kBlock, k0 = key_block * kBlock;
  A counted[V::lanes];
  for (int i = 0; i < V::lanes; ++i) counted[i] = static_cast<A>(i);
  if (f.drop.on()) f.drop.apply(dp, kBlock, 1, q0, queries, k0, keys);
  for (int64_t i = 0; i < queries; ++i) {
    const int64_t seen = std::min(keys, q0 + i + 1 - k0);
    const V scale(f.scale), lse(f.lse[q0 + i]), row_d(d[i]), zero(A(0));
    for (int64_t k = 0; k < keys; k += V::lanes) {
      A *at = p + i * kBlock + k, *grad = dp + i * kBlock + k;
      if (k >= seen) {
        zero.store(at);
        zero.store(grad);
        continue;
      }
      V x = simd::exp(V::load(at) * scale - lse);
      V g = x * (V::load(grad) - row_d) * scale;
      if (seen < k + V::lanes) {
        const V index = V::load(counted) + V(static_cast<A>(k)), limit(static_cast<A>(seen));
        x = simd::less(index, limit, x, zero);
        g = simd::less(index, limit, g, zero);
      }
      x.store(at);
      g.store(grad);
    }
  }
  if (f.drop.on()) f.drop.apply(p, kBlock, 1, q0, queries, k0, keys);
}

// One pair of blocks. On the diagonal, products leave out what the mask makes zero.
template <class T, class A>
void backward_pair(const gemm::Kernels<A>& table, const Backward<T, A>& f, const Part& part,
                   int64_t key_block, int64_t query_block, const BackwardScratch<A>& m) {
  const int64_t keys = std::min(kBlock, f.tokens - key_block * kBlock);
  const int64_t queries = std::min(kBlock, f.tokens - query_block * kBlock);
  const int64_t kb = key_block - part.key_begin, qb = query_block - part.query_begin;
  const bool diagonal = key_block == query_block;
  for_panels(table, queries, [&](int64_t begin, int64_t end) {
    const int64_t seen = diagonal ? end : keys;
    panel_product(table, begin, end, 0, seen, f.dim, m.qt + qb * m.column_block, kBlock,
                  m.kt + kb * m.column_block, kBlock, m.p, kBlock, false);
    panel_product(table, begin, end, 0, seen, f.dim, m.dyt + qb * m.column_block, kBlock,
                  m.vt + kb * m.column_block, kBlock, m.dp, kBlock, false);
  });
  score_gradients(f, key_block, query_block, keys, queries, m.d + qb * kBlock, m.p, m.dp);
  if (part.dkv) {
    for_panels(table, keys, [&](int64_t begin, int64_t end) {
      const int64_t from = diagonal ? begin : 0;
      panel_product(table, begin, end, 0, f.dim, queries - from, m.p + from * kBlock, kBlock,
                    m.dy + qb * m.row_block + from * m.padded, m.padded, m.dv, m.padded, !diagonal);
      panel_product(table, begin, end, 0, f.dim, queries - from, m.dp + from * kBlock, kBlock,
                    m.q + qb * m.row_block + from * m.padded, m.padded, m.dk, m.padded, !diagonal);
    });
  }
  if (part.dq) {
    table.pack_along(m.dp, kBlock, queries, keys, m.ds_turned, kBlock);
    for_panels(table, queries, [&](int64_t begin, int64_t end) {
      panel_product(table, begin, end, 0, f.dim, diagonal ? end : keys, m.ds_turned, kBlock,
                    m.k + kb * m.row_block, m.padded, m.dq + qb * m.row_block, m.padded,
                    key_block > 0);
    });
  }
}

template <class T, class A>
void backward(const Backward<T, A>& f, const Part& part, gemm::Buffer& buffer) {
  const gemm::Kernels<A>& table = gemm::kernels<A>();
  const int64_t padded = (f.dim + table.tile_cols - 1) / table.tile_cols * table.tile_cols;
  const BackwardScratch<A> m(buffer, f.dim, padded, part);
  pack_part(table, f, part, m);
  for (int64_t kb = part.key_begin; kb < part.key_end; ++kb) {
    for (int64_t qb = std::max(kb, part.query_begin); qb < part.query_end; ++qb) {
      backward_pair(table, f, part, kb, qb, m);
    }
    if (part.dkv) {
      const int64_t first = kb * kBlock, n = std::min(kBlock, f.tokens - first);
      write_rows(f.dk, first, n, f.dim, m.dk, padded);
      write_rows(f.dv, first, n, f.dim, m.dv, padded);
    }
  }
  if (!part.dq) return;
  for (int64_t qb = part.query_begin; qb < part.query_end; ++qb) {
    const int64_t first = qb * kBlock, n = std::min(kBlock, f.tokens - first);
    write_rows(f.dq, first, n, f.dim, m.dq + (qb - part.query_begin) * m.row_block, padded);
  }
}

}  // namespace pyramoe::attention
