// dQ on Hopper: a tile of queries and dy at rest, keys and values stream by.
//
// The third product waits for nobody: while it runs, the next scores are asked for.
#include "cuda/attention_hopper_backward.cuh"

namespace pyramoe::gpu::attention {
namespace {

template <int kDim>
struct QueriesShared {
  static constexpr int kKeys = kDim == 64 ? 128 : 64;  // of a streamed tile
  static constexpr int kStages = kDim == 64 ? 3 : 2;
  char q[2][kTileBytes<kTileRows, kDim>], dy[2][kTileBytes<kTileRows, kDim>];
  char k[kStages][kTileBytes<kKeys, kDim>], v[kStages][kTileBytes<kKeys, kDim>];
  char out[2][kTileBytes<kGroupRows, kDim>];
  uint64_t q_full[2], q_empty[2];
  uint64_t k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
};

template <int kDim>
__device__ __forceinline__ void load_for_queries(QueriesShared<kDim>& m, const CUtensorMap* q_map,
                                                 const CUtensorMap* dy_map,
                                                 const CUtensorMap* stream, const BackwardArgs& a) {
  constexpr int kKeys = QueriesShared<kDim>::kKeys;
  hop::Ring<QueriesShared<kDim>::kStages> ring;
  hop::Ring<2> rest_ring;
  const int heads = a.order.heads;
  for_tiles(a.order, [&](int tile, int head) {
    const int h = head % heads, b = head / heads, end = min(a.tokens, (tile + 1) * kTileRows);
    const int i = rest_ring.stage;
    hop::barrier_wait(&m.q_empty[i], rest_ring.parity ^ 1);
    hop::barrier_expect(&m.q_full[i], sizeof(m.q[i]) + sizeof(m.dy[i]));
    load_tile<kTileRows, kDim>(m.q[i], q_map, &m.q_full[i], h, tile * kTileRows, b);
    load_tile<kTileRows, kDim>(m.dy[i], dy_map, &m.q_full[i], h, tile * kTileRows, b);
    rest_ring.next();
    for (int k0 = 0; k0 < end; k0 += kKeys, ring.next()) {
      const int s = ring.stage;
      hop::barrier_wait(&m.k_empty[s], ring.parity ^ 1);
      hop::barrier_expect(&m.k_full[s], sizeof(m.k[s]));
      load_tile<kKeys, kDim>(m.k[s], stream, &m.k_full[s], heads + h, k0, b);
      hop::barrier_wait(&m.v_empty[s], ring.parity ^ 1);
      hop::barrier_expect(&m.v_full[s], sizeof(m.v[s]));
      load_tile<kKeys, kDim>(m.v[s], stream, &m.v_full[s], 2 * heads + h, k0, b);
    }
  });
}

// Scores (queries, keys) to P. Row 0 of the lane sees keys up to `last` of the tile, row 8 up to 8
// more; near the diagonal the others become zero.
template <int kKeys>
__device__ __forceinline__ void probabilities(float (&s)[kKeys / 2], const float (&lse2)[2],
                                              float scale, int last, bool diagonal) {
  const int column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) s[i] = power_of_two(fmaf(s[i], scale, -lse2[i / 2 % 2]));
  if (!diagonal) return;
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) {
    if (i / 4 * 8 + column + i % 2 > last + i / 2 % 2 * 8) s[i] = 0;
  }
}

// dP to dS; with dropout, times 1 - p, and dP counts where `words`, by 64 keys, keep P.
template <int kKeys, bool kDrop>
__device__ __forceinline__ void gradients(float (&dp)[kKeys / 2], const float (&s)[kKeys / 2],
                                          const float (&delta)[2],
                                          const uint32_t (&words)[kKeys / kKeepRows]) {
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) {
    const float d = delta[i / 2 % 2];
    if constexpr (kDrop) {
      const float without = s[i] * -d;
      dp[i] = kept(words[i / 32], i % 32) ? fmaf(s[i], dp[i], without) : without;
    } else {
      dp[i] = s[i] * (dp[i] - d);
    }
  }
}

template <int kDim, bool kDrop>
__device__ __forceinline__ void compute_queries(QueriesShared<kDim>& m, const CUtensorMap* out,
                                                const BackwardArgs& a) {
  constexpr int kKeys = QueriesShared<kDim>::kKeys;
  const int group = warpgroup() - 1, lane = threadIdx.x % 32;
  const int row = group * kGroupRows + threadIdx.x % kGroupThreads / 32 * 16 + lane / 4;
  const float scale = a.scale * kLog2e;
  const int heads = a.order.heads;
  hop::Ring<QueriesShared<kDim>::kStages> ring;
  hop::Ring<2> rest_ring;
  for_tiles(a.order, [&](int tile, int head) {
    const int place = rest_ring.stage;
    const uint32_t q = hop::shared_address(m.q[place]) + group * kGroupRows * 128;
    const uint32_t dy = hop::shared_address(m.dy[place]) + group * kGroupRows * 128;
    float dq[kDim / 2] = {}, s[kKeys / 2], dp[kKeys / 2], lse2[2], delta[2];
    Left<kKeys> ds;
    const int query = tile * kTileRows + row, end = min(a.tokens, (tile + 1) * kTileRows);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t i = static_cast<int64_t>(head) * a.padded + query + 8 * r;
      lse2[r] = a.lse2[i], delta[r] = a.delta[i];
    }
    hop::barrier_wait(&m.q_full[place], rest_ring.parity);
    rest_ring.next();
    const KeepRow keep_row = kDrop ? a.keep.of_query(head, 2 * tile + group) : KeepRow{};
    constexpr int kTiles = kKeys / kKeepRows;
    uint32_t next[kTiles] = {};  // the bits of the next keys
    if constexpr (kDrop) {
#pragma unroll
      for (int i = 0; i < kTiles; ++i) next[i] = keep_row[i];
    }
    int done = -1, k0 = 0;
    const int own_end = min(end, tile * kTileRows + (group + 1) * kGroupRows);
    for (; k0 < own_end; k0 += kKeys, ring.next()) {
      const int stage = ring.stage;
      uint32_t keep[kTiles];
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        keep[i] = next[i];
        if constexpr (kDrop) next[i] = keep_row[k0 / kKeepRows + kTiles + i];
      }
      const uint32_t k_tile = hop::shared_address(m.k[stage]);
      hop::barrier_wait(&m.k_full[stage], ring.parity);
      hop::wgmma_fence();
      product_abt<kDim, kTileRows, kKeys>(s, q, k_tile);
      hop::wgmma_commit();
      hop::barrier_wait(&m.v_full[stage], ring.parity);
      product_abt<kDim, kTileRows, kKeys>(dp, dy, hop::shared_address(m.v[stage]));
      hop::wgmma_commit();
      hop::wgmma_wait<1>();
      hop::wgmma_touch(s);
      if (done >= 0) release(&m.k_empty[done]);
      done = stage;
      probabilities<kKeys>(s, lse2, scale, query - k0,
                           k0 + kKeys > tile * kTileRows + group * kGroupRows);
      hop::wgmma_wait<0>();
      hop::wgmma_touch(dp);
      release(&m.v_empty[stage]);
      gradients<kKeys, kDrop>(dp, s, delta, keep);
      to_left<kKeys>(ds, dp);
      hop::wgmma_fence();
      add_product<kDim, kKeys>(dq, ds, k_tile, 1);
      hop::wgmma_commit();
    }
    hop::wgmma_wait<0>();
    hop::wgmma_touch(dq);
    release(&m.k_empty[done]);
    for (; k0 < end; k0 += kKeys, ring.next()) {  // keys that only the other group sees
      hop::barrier_wait(&m.k_full[ring.stage], ring.parity);
      hop::barrier_wait(&m.v_full[ring.stage], ring.parity);
      release(&m.k_empty[ring.stage]);
      release(&m.v_empty[ring.stage]);
    }
    release(&m.q_empty[place]);
    const float out_scale = kDrop ? a.scale * a.keep.factor : a.scale;
    store_rows<kDim>(dq, out_scale, out_scale, m.out[group], kStagingBarrier + group, out,
                     head % heads, tile * kTileRows + group * kGroupRows, head / heads);
  });
  finish_stores();
}

template <int kDim, bool kDrop>
__global__ void __launch_bounds__(kHopperThreads, 1)
    hopper_dq_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap dy,
                     const __grid_constant__ CUtensorMap stream,
                     const __grid_constant__ CUtensorMap out,
                     const __grid_constant__ BackwardArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) char shared_bytes[];
  auto& m = *reinterpret_cast<QueriesShared<kDim>*>(shared_bytes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      hop::barrier_init(&m.q_full[i], 1), hop::barrier_init(&m.q_empty[i], kConsumerWarps);
    }
    for (int s = 0; s < QueriesShared<kDim>::kStages; ++s) {
      hop::barrier_init(&m.k_full[s], 1), hop::barrier_init(&m.v_full[s], 1);
      hop::barrier_init(&m.k_empty[s], kConsumerWarps);
      hop::barrier_init(&m.v_empty[s], kConsumerWarps);
    }
    hop::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < kGroupThreads) {
    hop::release_registers<24>();
    if (threadIdx.x == 0) load_for_queries<kDim>(m, &q, &dy, &stream, args);
  } else {
    hop::take_registers<240>();
    compute_queries<kDim, kDrop>(m, &out, args);
  }
#endif
}

}  // namespace

template <int kDim, bool kDrop>
void hopper_dq(const Backward<Bf16>& f, const BackwardArgs& args) {
  using Shared = QueriesShared<kDim>;
  constexpr int kKeys = Shared::kKeys;
  const auto kernel = &hopper_dq_kernel<kDim, kDrop>;
  allow_shared_memory(reinterpret_cast<const void*>(kernel), sizeof(Shared));
  kernel<<<grid(args.order.count(), 1, multiprocessors()), kHopperThreads, sizeof(Shared),
           stream()>>>(map_of(f, f.q.data, 3, kTileRows), map_of(f, f.dy.data, 1, kTileRows),
                       map_of(f, f.q.data, 3, kKeys), map_of(f, f.dq.data, 3, kGroupRows), args);
  PM_LAUNCHED();
}

template void hopper_dq<64, false>(const Backward<Bf16>&, const BackwardArgs&);
template void hopper_dq<64, true>(const Backward<Bf16>&, const BackwardArgs&);
template void hopper_dq<128, false>(const Backward<Bf16>&, const BackwardArgs&);
template void hopper_dq<128, true>(const Backward<Bf16>&, const BackwardArgs&);

}  // namespace pyramoe::gpu::attention
