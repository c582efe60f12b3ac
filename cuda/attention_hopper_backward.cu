// Backward attention on Hopper: wgmma and TMA, bf16, head dim 64 and 128, deterministic.
//
//   P = exp(scale Q Kᵀ - lse)    dV = Pᵀ dY    dP = dY Vᵀ
//   dS = P (dP - delta)          dQ = scale dS K    dK = scale dSᵀ Q
// Two kernels, each the owner of what it sums: one keeps a tile of keys and streams queries (dK,
// dV), one keeps a tile of queries and streams keys (dQ). Scores and dP are computed twice, 7
// products for 5, but no fp32 dQ goes through memory, nobody waits for anybody, and P and dS go
// from one product to the next in registers: the first kernel computes them transposed, (keys,
// queries), so that they are left operands there too.
#include "cuda/attention_hopper.cuh"
#include "cuda/vec.cuh"

namespace pyramoe::gpu::attention {
namespace {

constexpr int kPad = kTileRows;  // lse and delta are padded to whole tiles

struct BackwardArgs {
  Order order;
  int tokens, padded;
  float scale;
  const float* lse2;   // (B * H, padded): lse in units of log2; +inf behind the end, so that P = 0
  const float* delta;  // (B * H, padded): row sums of dy * y; 0 behind the end
};

// ---- delta and lse2: kDim / 8 lanes a row

template <int kDim>
__global__ void prepare_kernel(const __grid_constant__ Backward<Bf16> f, int padded, float* lse2,
                               float* delta) {
  constexpr int kLanes = kDim / 8;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kLanes;
  const int lane = threadIdx.x % kLanes;
  const int64_t h = i % f.heads, t = i / f.heads % padded, b = i / f.heads / padded;
  const bool inside = b < f.batch && t < f.tokens;
  float sum = 0;
  if (inside) {
    const auto y = load_vec(f.y.head(b, h, kDim) + t * f.y.row + lane * 8);
    const auto dy = load_vec(f.dy.head(b, h, kDim) + t * f.dy.row + lane * 8);
#pragma unroll
    for (int e = 0; e < 8; ++e) sum = fmaf(to_float(y.v[e]), to_float(dy.v[e]), sum);
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (lane != 0 || b >= f.batch) return;
  const int64_t head = b * f.heads + h;
  delta[head * padded + t] = sum;
  lse2[head * padded + t] = inside ? f.lse[head * f.tokens + t] * kLog2e : INFINITY;
}

// ---- dK and dV: keys at rest

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
                                              const BackwardArgs& a) {
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
      const int64_t row = static_cast<int64_t>(head) * a.padded + q0;
      hop::barrier_wait(&m.empty[s], ring.parity ^ 1);
      hop::barrier_expect(&m.q_full[s], sizeof(m.q[s]) + sizeof(m.lse2[s]));
      load_tile<kQueries, kDim>(m.q[s], q_map, &m.q_full[s], h, q0, b);
      bulk_load(m.lse2[s], a.lse2 + row, sizeof(m.lse2[s]), &m.q_full[s]);
      hop::barrier_expect(&m.dy_full[s], sizeof(m.dy[s]) + sizeof(m.delta[s]));
      load_tile<kQueries, kDim>(m.dy[s], dy_map, &m.dy_full[s], h, q0, b);
      bulk_load(m.delta[s], a.delta + row, sizeof(m.delta[s]), &m.dy_full[s]);
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

// dP (keys, queries) to dS.
template <int kQueries>
__device__ __forceinline__ void turned_gradients(float (&dp)[kQueries / 2], const Left<kQueries>& p,
                                                 const float* delta) {
  const int column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int j = 0; j < kQueries / 8; ++j) {
    const float2 d = *reinterpret_cast<const float2*>(delta + 8 * j + column);
    const uint32_t low = p[j / 2][j % 2 * 2], high = p[j / 2][j % 2 * 2 + 1];
    dp[4 * j] = low_half(low) * (dp[4 * j] - d.x);
    dp[4 * j + 1] = high_half(low) * (dp[4 * j + 1] - d.y);
    dp[4 * j + 2] = low_half(high) * (dp[4 * j + 2] - d.x);
    dp[4 * j + 3] = high_half(high) * (dp[4 * j + 3] - d.y);
  }
}

template <int kDim>
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
    Left<kQueries> p, ds;
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
    // dV and dK of a step run on while the next step's scores are asked for.
    int done = -1;
    for (; q0 < a.padded; q0 += kQueries, ring.next()) {
      const int stage = ring.stage;
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
      if (done >= 0) release(&m.empty[done]);
      done = stage;
      turned_probabilities<kQueries>(s, m.lse2[stage], scale, tile * kTileRows + row - q0);
      to_left<kQueries>(p, s);
      hop::wgmma_fence();
      add_product<kDim, kQueries>(dv, p, dy_tile, 1);
      hop::wgmma_commit();
      hop::wgmma_wait<1>();
      hop::wgmma_touch(dp);
      turned_gradients<kQueries>(dp, p, m.delta[stage]);
      to_left<kQueries>(ds, dp);
      hop::wgmma_fence();
      add_product<kDim, kQueries>(dk, ds, q_tile, 1);
      hop::wgmma_commit();
    }
    hop::wgmma_wait<0>();
    hop::wgmma_touch(dv);
    hop::wgmma_touch(dk);
    release(&m.empty[done]);
    release(&m.kv_empty[place]);
    const int token = tile * kTileRows + group * kGroupRows, h = head % heads, b = head / heads;
    store_rows<kDim>(dv, 1, 1, m.out[group], kStagingBarrier + group, out, 2 * heads + h, token, b);
    store_rows<kDim>(dk, a.scale, a.scale, m.out[group], kStagingBarrier + group, out, heads + h,
                     token, b);
  });
  finish_stores();
}

template <int kDim>
__global__ void __launch_bounds__(kHopperThreads, 1)
    hopper_dkv_kernel(const __grid_constant__ CUtensorMap rest,
                      const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap dy,
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
    if (threadIdx.x == 0) load_for_keys<kDim>(m, &rest, &q, &dy, args);
  } else {
    hop::take_registers<240>();
    compute_keys<kDim>(m, &out, args);
  }
#endif
}

// ---- dQ: queries at rest

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

template <int kDim>
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
    int done = -1, k0 = 0;
    const int own_end = min(end, tile * kTileRows + (group + 1) * kGroupRows);
    for (; k0 < own_end; k0 += kKeys, ring.next()) {
      const int stage = ring.stage;
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
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) dp[i] = s[i] * (dp[i] - delta[i / 2 % 2]);
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
    store_rows<kDim>(dq, a.scale, a.scale, m.out[group], kStagingBarrier + group, out, head % heads,
                     tile * kTileRows + group * kGroupRows, head / heads);
  });
  finish_stores();
}

template <int kDim>
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
    compute_queries<kDim>(m, &out, args);
  }
#endif
}

// ---- host

template <int kDim>
void launch(const Backward<Bf16>& f) {
  using Keys = KeysShared<kDim>;
  using Queries = QueriesShared<kDim>;
  BackwardArgs args{};
  args.tokens = f.tokens, args.padded = static_cast<int>(ceil_div(f.tokens, kPad)) * kPad;
  args.scale = f.scale;
  const int64_t rows = static_cast<int64_t>(f.batch) * f.heads * args.padded;
  const Scratch scratch(2 * rows * static_cast<int64_t>(sizeof(float)));
  float *lse2 = scratch.data<float>(), *delta = lse2 + rows;
  args.lse2 = lse2, args.delta = delta;
  prepare_kernel<kDim>
      <<<grid(rows * (kDim / 8), 256), 256, 0, stream()>>>(f, args.padded, lse2, delta);
  PM_LAUNCHED();
  const auto map = [&](const void* x, int64_t parts, int box) {
    return packed_map(x, f.batch, f.tokens, parts, f.heads, kDim, box);
  };
  const CUtensorMap rest = map(f.q.data, 3, kTileRows), dy_rest = map(f.dy.data, 1, kTileRows);
  const CUtensorMap out = map(f.dq.data, 3, kGroupRows);
  const int64_t streamed = int64_t{2} * f.tokens * kDim * static_cast<int64_t>(sizeof(Bf16));
  args.order = order_of(f.batch, f.heads, f.tokens, streamed, false);
  const unsigned blocks =
      grid(int64_t{args.order.tiles} * args.order.b_heads, 1, multiprocessors());
  allow_shared_memory(reinterpret_cast<const void*>(&hopper_dkv_kernel<kDim>), sizeof(Keys));
  hopper_dkv_kernel<kDim><<<blocks, kHopperThreads, sizeof(Keys), stream()>>>(
      rest, map(f.q.data, 3, Keys::kQueries), map(f.dy.data, 1, Keys::kQueries), out, args);
  PM_LAUNCHED();
  args.order.last_first = true;
  allow_shared_memory(reinterpret_cast<const void*>(&hopper_dq_kernel<kDim>), sizeof(Queries));
  hopper_dq_kernel<kDim><<<blocks, kHopperThreads, sizeof(Queries), stream()>>>(
      rest, dy_rest, map(f.q.data, 3, Queries::kKeys), out, args);
  PM_LAUNCHED();
}

}  // namespace

void hopper_backward(const Backward<Bf16>& f) {
  if (f.dim == 64) return launch<64>(f);
  launch<128>(f);
}

}  // namespace pyramoe::gpu::attention
