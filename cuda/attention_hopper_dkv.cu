// dK and dV on Hopper: a tile of keys and values at rest, queries and dy stream by.
//
// Scores are computed transposed, (keys, queries): P and dS are then left operands in registers of
// the products that make dV and dK. lse and delta come with the queries, by the map `rows` with
// axes (padded, B H, {lse2, delta}).
#include "cuda/attention_hopper_backward.cuh"

namespace pyramoe::gpu::attention {
namespace {

template <int kDim>
struct KeysShared {
  static constexpr int kQueries = 64;  // of a streamed tile; more would not fit the registers
  static constexpr int kStages = kDim == 64 ? 3 : 2;
  char k[2][kTileBytes<kTileRows, kDim>], v[2][kTileBytes<kTileRows, kDim>];
  char q[kStages][kTileBytes<kQueries, kDim>], dy[kStages][kTileBytes<kQueries, kDim>];
  char out[2][kTileBytes<kGroupRows, kDim>];
  float lse2[kStages][kQueries], delta[kStages][kQueries];
  uint64_t kv_full[2], kv_empty[2], q_full[kStages], dy_full[kStages], empty[kStages];
};

template <int kDim>
__device__ __forceinline__ void load_for_keys(KeysShared<kDim>& m, const CUtensorMap* rest,
                                              const CUtensorMap* q_map, const CUtensorMap* dy_map,
                                              const CUtensorMap* rows, const BackwardArgs& a) {
  constexpr int kQueries = KeysShared<kDim>::kQueries;
  hop::Ring<KeysShared<kDim>::kStages> ring;
  hop::Ring<2> rest_ring;
  const int heads = a.order.heads;
  for_tiles(a.order, [&](int tile, int head) {
    const int h = head % heads, b = head / heads, i = rest_ring.stage;
    hop::barrier_wait(&m.kv_empty[i], rest_ring.parity ^ 1);
    hop::barrier_expect(&m.kv_full[i], sizeof(m.k[i]) + sizeof(m.v[i]));
    load_tile<kTileRows, kDim>(m.k[i], rest, &m.kv_full[i], heads + h, tile * kTileRows, b);
    load_tile<kTileRows, kDim>(m.v[i], rest, &m.kv_full[i], 2 * heads + h, tile * kTileRows, b);
    rest_ring.next();
    for (int q0 = tile * kTileRows; q0 < a.padded; q0 += kQueries, ring.next()) {
      const int s = ring.stage;
      hop::barrier_wait(&m.empty[s], ring.parity ^ 1);
      hop::barrier_expect(&m.q_full[s], sizeof(m.q[s]) + sizeof(m.lse2[s]));
      load_tile<kQueries, kDim>(m.q[s], q_map, &m.q_full[s], h, q0, b);
      hop::tma_load(m.lse2[s], rows, &m.q_full[s], q0, head, 0);
      hop::barrier_expect(&m.dy_full[s], sizeof(m.dy[s]) + sizeof(m.delta[s]));
      load_tile<kQueries, kDim>(m.dy[s], dy_map, &m.dy_full[s], h, q0, b);
      hop::tma_load(m.delta[s], rows, &m.dy_full[s], q0, head, 1);
    }
  });
}

// Scores (keys, queries) to P: column j of a lane is query 8 (j / 4) + 2 (lane % 4) + j % 2.
//   first_seen  the first query that row 0 of the lane sees; row 8 sees one from 8 later
template <int kQueries>
__device__ __forceinline__ void turned_probabilities(float (&s)[kQueries / 2], const float* lse2,
                                                     float scale, int first_seen) {
  const int column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int j = 0; j < kQueries / 8; ++j) {
    const float2 l = *reinterpret_cast<const float2*>(lse2 + 8 * j + column);
    s[4 * j] = power_of_two(fmaf(s[4 * j], scale, -l.x));
    s[4 * j + 1] = power_of_two(fmaf(s[4 * j + 1], scale, -l.y));
    s[4 * j + 2] = power_of_two(fmaf(s[4 * j + 2], scale, -l.x));
    s[4 * j + 3] = power_of_two(fmaf(s[4 * j + 3], scale, -l.y));
  }
  if (first_seen + 8 <= 0) return;
#pragma unroll
  for (int j = 0; j < kQueries / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (8 * j + column + i % 2 < first_seen + i / 2 * 8) s[4 * j + i] = 0;
    }
  }
}

// 0xffff in the halves of a pair of scores that are kept, from element e of a thread's word on: the
// two bits, each moved to the end of its byte, are copied all over a half.
__device__ __forceinline__ uint32_t mask_of_pair(uint32_t word, int e) {
  const int bit = keep_bit(e), byte = bit / 8, place = bit % 8;
  uint32_t mask;
  asm("prmt.b32 %0, %1, %2, %3;"
      : "=r"(mask)
      : "r"(word << (7 - place)), "r"(word << (6 - place)), "r"(0xcc88 + 0x1111 * byte));
  return mask;
}

// The probabilities that dV takes, from all of them.
template <int kQueries>
__device__ __forceinline__ void keep_some(Left<kQueries>& some, const Left<kQueries>& all,
                                          uint32_t word) {
#pragma unroll
  for (int k = 0; k < kQueries / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) some[k][i] = all[k][i] & mask_of_pair(word, 8 * k + 2 * i);
  }
}

// dP (keys, queries) to dS; with dropout, times 1 - p, and dP counts where P is kept.
template <int kQueries, bool kDrop>
__device__ __forceinline__ void turned_gradients(float (&dp)[kQueries / 2], const Left<kQueries>& p,
                                                 const Left<kQueries>& kept_p, const float* delta) {
  const int column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int j = 0; j < kQueries / 8; ++j) {
    const float2 d = *reinterpret_cast<const float2*>(delta + 8 * j + column);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint32_t all = p[j / 2][j % 2 * 2 + r], some = kept_p[j / 2][j % 2 * 2 + r];
      float &x = dp[4 * j + 2 * r], &y = dp[4 * j + 2 * r + 1];
      if constexpr (kDrop) {
        x = fmaf(low_half(some), x, low_half(all) * -d.x);
        y = fmaf(high_half(some), y, high_half(all) * -d.y);
      } else {
        x = low_half(all) * (x - d.x), y = high_half(all) * (y - d.y);
      }
    }
  }
}

template <int kDim, bool kDrop>
__device__ __forceinline__ void compute_keys(KeysShared<kDim>& m, const CUtensorMap* out,
                                             const BackwardArgs& a) {
  constexpr int kQueries = KeysShared<kDim>::kQueries;
  const int group = warpgroup() - 1, lane = threadIdx.x % 32;
  const int row = group * kGroupRows + threadIdx.x % kGroupThreads / 32 * 16 + lane / 4;
  const float scale = a.scale * kLog2e;
  const int heads = a.order.heads;
  hop::Ring<KeysShared<kDim>::kStages> ring;
  hop::Ring<2> rest_ring;
  for_tiles(a.order, [&](int tile, int head) {
    const int place = rest_ring.stage;
    const uint32_t k = hop::shared_address(m.k[place]) + group * kGroupRows * 128;
    const uint32_t v = hop::shared_address(m.v[place]) + group * kGroupRows * 128;
    float dk[kDim / 2] = {}, dv[kDim / 2] = {}, s[kQueries / 2], dp[kQueries / 2];
    Left<kQueries> p, ds, kept_p;
    int q0 = tile * kTileRows;
    hop::barrier_wait(&m.kv_full[place], rest_ring.parity);
    rest_ring.next();
    if (kQueries == kGroupRows && group == 1) {  // the first queries see none of these keys
      hop::barrier_wait(&m.q_full[ring.stage], ring.parity);
      hop::barrier_wait(&m.dy_full[ring.stage], ring.parity);
      release(&m.empty[ring.stage]);
      ring.next();
      q0 += kQueries;
    }
    const auto bits = [&](int query) {
      return a.keep.of_key(head, 2 * tile + group)[query / kKeepRows];
    };
    constexpr bool kAhead = kDim == 64;  // 128 has no register left for those of the next queries
    uint32_t next = 0;
    if constexpr (kDrop && kAhead) next = bits(q0);
    // dV and dK of a step run on while the next step's scores are asked for.
    int done = -1;
    for (; q0 < a.padded; q0 += kQueries, ring.next()) {
      const int stage = ring.stage;
      const uint32_t keep = kDrop && !kAhead ? bits(q0) : next;
      if constexpr (kDrop && kAhead) next = bits(q0 + kQueries);
      const uint32_t q_tile = hop::shared_address(m.q[stage]);
      const uint32_t dy_tile = hop::shared_address(m.dy[stage]);
      hop::barrier_wait(&m.q_full[stage], ring.parity);
      hop::wgmma_fence();
      product_abt<kDim, kTileRows, kQueries>(s, k, q_tile);
      hop::wgmma_commit();
      if constexpr (kDim == 128) hop::wgmma_wait<1>();  // gives back the registers of p and ds
      hop::barrier_wait(&m.dy_full[stage], ring.parity);
      product_abt<kDim, kTileRows, kQueries>(dp, v, dy_tile);
      hop::wgmma_commit();
      hop::wgmma_wait<1>();
      hop::wgmma_touch(s);
      if (done >= 0) {
        __syncwarp();  // all lanes have read lse and delta
        release(&m.empty[done]);
      }
      done = stage;
      turned_probabilities<kQueries>(s, m.lse2[stage], scale, tile * kTileRows + row - q0);
      to_left<kQueries>(p, s);
      if constexpr (kDrop) keep_some<kQueries>(kept_p, p, keep);
      hop::wgmma_fence();
      add_product<kDim, kQueries>(dv, kDrop ? kept_p : p, dy_tile, 1);
      hop::wgmma_commit();
      hop::wgmma_wait<1>();
      hop::wgmma_touch(dp);
      turned_gradients<kQueries, kDrop>(dp, p, kDrop ? kept_p : p, m.delta[stage]);
      to_left<kQueries>(ds, dp);
      hop::wgmma_fence();
      add_product<kDim, kQueries>(dk, ds, q_tile, 1);
      hop::wgmma_commit();
    }
    hop::wgmma_wait<0>();
    hop::wgmma_touch(dv);
    hop::wgmma_touch(dk);
    __syncwarp();
    release(&m.empty[done]);
    release(&m.kv_empty[place]);
    const int token = tile * kTileRows + group * kGroupRows, h = head % heads, b = head / heads;
    const float factor = kDrop ? a.keep.factor : 1;
    store_rows<kDim>(dv, factor, factor, m.out[group], kStagingBarrier + group, out, 2 * heads + h,
                     token, b);
    const float dk_scale = a.scale * factor;
    store_rows<kDim>(dk, dk_scale, dk_scale, m.out[group], kStagingBarrier + group, out, heads + h,
                     token, b);
  });
  finish_stores();
}

template <int kDim, bool kDrop>
__global__ void __launch_bounds__(kHopperThreads, 1)
    hopper_dkv_kernel(const __grid_constant__ CUtensorMap rest,
                      const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap dy,
                      const __grid_constant__ CUtensorMap rows,
                      const __grid_constant__ CUtensorMap out,
                      const __grid_constant__ BackwardArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) char shared_bytes[];
  auto& m = *reinterpret_cast<KeysShared<kDim>*>(shared_bytes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      hop::barrier_init(&m.kv_full[i], 1), hop::barrier_init(&m.kv_empty[i], kConsumerWarps);
    }
    for (int s = 0; s < KeysShared<kDim>::kStages; ++s) {
      hop::barrier_init(&m.q_full[s], 1), hop::barrier_init(&m.dy_full[s], 1);
      hop::barrier_init(&m.empty[s], kConsumerWarps);
    }
    hop::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < kGroupThreads) {
    hop::release_registers<24>();
    if (threadIdx.x == 0) load_for_keys<kDim>(m, &rest, &q, &dy, &rows, args);
  } else {
    hop::take_registers<240>();
    compute_keys<kDim, kDrop>(m, &out, args);
  }
#endif
}

}  // namespace

template <int kDim, bool kDrop>
void hopper_dkv(const Backward<Bf16>& f, const BackwardArgs& args) {
  using Shared = KeysShared<kDim>;
  constexpr int kQueries = Shared::kQueries;
  const auto kernel = &hopper_dkv_kernel<kDim, kDrop>;
  allow_shared_memory(reinterpret_cast<const void*>(kernel), sizeof(Shared));
  const int64_t padded = args.padded, rows = int64_t{f.batch} * f.heads, row = padded * 4;
  const CUtensorMap rows_map =
      hop::tensor_map<3>(args.lse2, {padded, rows, 2}, {row, rows * row}, {kQueries, 1, 1},
                         hop::Swizzle::none, hop::Element::f32);
  kernel<<<grid(args.order.count(), 1, multiprocessors()), kHopperThreads, sizeof(Shared),
           stream()>>>(map_of(f, f.q.data, 3, kTileRows), map_of(f, f.q.data, 3, kQueries),
                       map_of(f, f.dy.data, 1, kQueries), rows_map,
                       map_of(f, f.dq.data, 3, kGroupRows), args);
  PM_LAUNCHED();
}

template void hopper_dkv<64, false>(const Backward<Bf16>&, const BackwardArgs&);
template void hopper_dkv<64, true>(const Backward<Bf16>&, const BackwardArgs&);
template void hopper_dkv<128, false>(const Backward<Bf16>&, const BackwardArgs&);
template void hopper_dkv<128, true>(const Backward<Bf16>&, const BackwardArgs&);

}  // namespace pyramoe::gpu::attention
