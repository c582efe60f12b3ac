// Forward attention on Hopper: wgmma and TMA, bf16, head dim 64 and 128.
//
// After FlashAttention-3 (Shah et al., 2024). Two ideas keep the tensor cores busy while the
// exponentials are computed, which take as long as the products at head dim 64: the scores of the
// next keys are asked for before the probabilities of the present ones meet their values, and the
// two warpgroups take turns, so that one computes exponentials while the other's products run.
// Keys pass from the diagonal down: only the first tile needs the mask.
#include "cuda/attention_hopper.cuh"
#include "cuda/attention_keep.cuh"

namespace pyramoe::gpu::attention {
namespace {

constexpr int kKeys = 128;  // keys of a tile

template <int kDim>
struct ForwardShared {
  static constexpr int kStages = kDim == 64 ? 3 : 2;
  char q[2][kTileBytes<kTileRows, kDim>];  // the next tile's queries arrive meanwhile
  char k[kStages][kTileBytes<kKeys, kDim>];
  char v[kStages][kTileBytes<kKeys, kDim>];
  char out[2][kTileBytes<kGroupRows, kDim>];
  uint64_t q_full[2], q_empty[2], k_full[kStages], k_empty[kStages], v_full[kStages],
      v_empty[kStages];
};

struct ForwardArgs {
  Order order;
  int tokens;
  float scale;
  float* lse;
  Keep keep;
};

template <int kDim>
__device__ __forceinline__ void load_forward(ForwardShared<kDim>& m, const CUtensorMap* qkv,
                                             const ForwardArgs& a) {
  hop::Ring<ForwardShared<kDim>::kStages> ring;
  hop::Ring<2> q_ring;
  const int heads = a.order.heads;
  for_tiles(a.order, [&](int tile, int head) {
    const int h = head % heads, b = head / heads, place = q_ring.stage;
    hop::barrier_wait(&m.q_empty[place], q_ring.parity ^ 1);
    hop::barrier_expect(&m.q_full[place], sizeof(m.q[place]));
    load_tile<kTileRows, kDim>(m.q[place], qkv, &m.q_full[place], h, tile * kTileRows, b);
    q_ring.next();
    for (int j = tile; j >= 0; --j, ring.next()) {
      const int s = ring.stage;
      hop::barrier_wait(&m.k_empty[s], ring.parity ^ 1);
      hop::barrier_expect(&m.k_full[s], sizeof(m.k[s]));
      load_tile<kKeys, kDim>(m.k[s], qkv, &m.k_full[s], heads + h, j * kKeys, b);
      hop::barrier_wait(&m.v_empty[s], ring.parity ^ 1);
      hop::barrier_expect(&m.v_full[s], sizeof(m.v[s]));
      load_tile<kKeys, kDim>(m.v[s], qkv, &m.v_full[s], 2 * heads + h, j * kKeys, b);
    }
  });
}

// The running softmax of a thread's two rows. Sums are the thread's own until the end.
template <int kColumns>
struct Softmax {
  float largest[2], sum[2];

  // Scores to probabilities; returns in `shrink` what earlier sums are to be multiplied with.
  __device__ __forceinline__ void step(float (&s)[kColumns / 2], float scale, bool first,
                                       float (&shrink)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = s[2 * r];
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) {
        top = fmaxf(top, fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]));
      }
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      if (!first) top = fmaxf(top, largest[r]);
      shrink[r] = first ? 0.0f : power_of_two((largest[r] - top) * scale);
      largest[r] = top;
      const float base = top * scale;
      float total[2] = {};
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = s[4 * j + 2 * r + i];
          x = power_of_two(fmaf(x, scale, -base));
          total[i] += x;
        }
      }
      sum[r] = first ? total[0] + total[1] : fmaf(sum[r], shrink[r], total[0] + total[1]);
    }
  }
  __device__ __forceinline__ float whole_sum(int r) const {
    float x = sum[r];
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
  }
};

// Keys behind the query, on the diagonal: row and column count from the tile's corner.
template <int kColumns>
__device__ __forceinline__ void mask(float (&s)[kColumns / 2], int row, int column) {
#pragma unroll
  for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (8 * j + column + i % 2 > row + i / 2 * 8) s[4 * j + i] = -INFINITY;
    }
  }
}

// The bits of a tile of keys, and of the one that comes next.
template <bool kDrop>
struct Kept {
  uint32_t words[kKeys / kKeepRows], next[kKeys / kKeepRows];

  __device__ __forceinline__ void load(const KeepRow& row, int tile) {
    if constexpr (kDrop) {
#pragma unroll
      for (int i = 0; i < kKeys / kKeepRows; ++i) next[i] = row[tile * (kKeys / kKeepRows) + i];
    }
  }
  __device__ __forceinline__ void take() {
    if constexpr (kDrop) {
#pragma unroll
      for (int i = 0; i < kKeys / kKeepRows; ++i) words[i] = next[i];
    }
  }
  // Dropped probabilities to zero; 1 / (1 - p) waits for the end.
  __device__ __forceinline__ void apply(float (&p)[kKeys / 2]) const {
    if constexpr (kDrop) {
#pragma unroll
      for (int e = 0; e < kKeys / 2; ++e) {
        if (!kept(words[e / 32], e % 32)) p[e] = 0;
      }
    }
  }
};

// Where a warpgroup stands: keys run ahead of values by one step.
template <int kDim>
struct Walk {
  ForwardShared<kDim>& m;
  int group;
  hop::Ring<ForwardShared<kDim>::kStages> k_ring, v_ring;

  __device__ __forceinline__ void my_turn() const {
    hop::named_barrier_sync(kTurnBarrier + group, 2 * kGroupThreads);
  }
  __device__ __forceinline__ void your_turn() const {
    hop::named_barrier_arrive(kTurnBarrier + (group ^ 1), 2 * kGroupThreads);
  }
  __device__ __forceinline__ void wait_for_keys() const {
    hop::barrier_wait(&m.k_full[k_ring.stage], k_ring.parity);
  }
  __device__ __forceinline__ void ask_scores(float (&s)[kKeys / 2], uint32_t q) const {
    hop::wgmma_fence();
    product_abt<kDim, kTileRows, kKeys>(s, q, hop::shared_address(m.k[k_ring.stage]));
    hop::wgmma_commit();
  }
  __device__ __forceinline__ void ask_values(float (&o)[kDim / 2], const Left<kKeys>& p) const {
    hop::barrier_wait(&m.v_full[v_ring.stage], v_ring.parity);
    add_product<kDim, kKeys>(o, p, hop::shared_address(m.v[v_ring.stage]), 1);
    hop::wgmma_commit();
  }
  // After the wait for them.
  __device__ __forceinline__ void got_scores(float (&s)[kKeys / 2]) {
    hop::wgmma_touch(s);
    release(&m.k_empty[k_ring.stage]);
    k_ring.next();
  }
  __device__ __forceinline__ void got_values(float (&o)[kDim / 2]) {
    hop::wgmma_touch(o);
    release(&m.v_empty[v_ring.stage]);
    v_ring.next();
  }
};

// y and lse of the warpgroup's queries.
template <int kDim, bool kDrop>
__device__ __forceinline__ void finish_forward(ForwardShared<kDim>& m, const float (&o)[kDim / 2],
                                               const Softmax<kKeys>& softmax, const CUtensorMap* y,
                                               const ForwardArgs& a, int group, int row, int tile,
                                               int head) {
  const float sum[2] = {softmax.whole_sum(0), softmax.whole_sum(1)};
  const int token = tile * kTileRows + row;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (threadIdx.x % 4 == 0 && token + 8 * r < a.tokens) {
      a.lse[static_cast<int64_t>(head) * a.tokens + token + 8 * r] =
          fmaf(softmax.largest[r], a.scale, logf(sum[r]));
    }
  }
  const float factor = kDrop ? a.keep.factor : 1;
  store_rows<kDim>(o, factor / sum[0], factor / sum[1], m.out[group], kStagingBarrier + group, y,
                   head % a.order.heads, tile * kTileRows + group * kGroupRows,
                   head / a.order.heads);
}

template <int kDim, bool kDrop>
__device__ __forceinline__ void compute_forward(ForwardShared<kDim>& m, const CUtensorMap* y,
                                                const ForwardArgs& a) {
  const int lane = threadIdx.x % 32;
  Walk<kDim> walk{m, warpgroup() - 1, {}, {}};
  const int row = walk.group * kGroupRows + threadIdx.x % kGroupThreads / 32 * 16 + lane / 4;
  const float scale = a.scale * kLog2e;
  if (walk.group == 1) walk.your_turn();  // group 0 begins
  hop::Ring<2> q_ring;
  for_tiles(a.order, [&](int tile, int head) {
    const int place = q_ring.stage;
    const uint32_t q = hop::shared_address(m.q[place]) + walk.group * kGroupRows * 128;
    float s[kKeys / 2], o[kDim / 2] = {}, shrink[2];
    Left<kKeys> p;
    Softmax<kKeys> softmax;
    Kept<kDrop> keep;
    const KeepRow keep_row = kDrop ? a.keep.of_query(head, 2 * tile + walk.group) : KeepRow{};
    keep.load(keep_row, tile);
    hop::barrier_wait(&m.q_full[place], q_ring.parity);
    q_ring.next();
    walk.wait_for_keys();
    walk.my_turn();
    walk.ask_scores(s, q);
    walk.your_turn();
    hop::wgmma_wait<0>();
    walk.got_scores(s);
    mask<kKeys>(s, row, lane % 4 * 2);
    softmax.step(s, scale, true, shrink);
    keep.take();
    keep.load(keep_row, max(tile - 1, 0));
    keep.apply(s);
    to_left<kKeys>(p, s);
    for (int j = tile - 1; j >= 0; --j) {
      keep.take();
      keep.load(keep_row, max(j - 1, 0));
      walk.wait_for_keys();
      walk.my_turn();
      walk.ask_scores(s, q);
      walk.ask_values(o, p);
      walk.your_turn();
      hop::wgmma_wait<1>();
      walk.got_scores(s);
      softmax.step(s, scale, false, shrink);
      keep.apply(s);
      hop::wgmma_wait<0>();
      walk.got_values(o);
#pragma unroll
      for (int i = 0; i < kDim / 2; ++i) o[i] *= shrink[i / 2 % 2];
      to_left<kKeys>(p, s);
    }
    release(&m.q_empty[place]);
    hop::wgmma_fence();
    walk.ask_values(o, p);
    hop::wgmma_wait<0>();
    walk.got_values(o);
    finish_forward<kDim, kDrop>(m, o, softmax, y, a, walk.group, row, tile, head);
  });
  finish_stores();
  if (walk.group == 0) walk.my_turn();  // the turn that is left: no barrier stays half full
}

template <int kDim, bool kDrop>
__global__ void __launch_bounds__(kHopperThreads, 1)
    hopper_forward_kernel(const __grid_constant__ CUtensorMap qkv,
                          const __grid_constant__ CUtensorMap y,
                          const __grid_constant__ ForwardArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) char shared_bytes[];
  auto& m = *reinterpret_cast<ForwardShared<kDim>*>(shared_bytes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      hop::barrier_init(&m.q_full[i], 1), hop::barrier_init(&m.q_empty[i], kConsumerWarps);
    }
    for (int s = 0; s < ForwardShared<kDim>::kStages; ++s) {
      hop::barrier_init(&m.k_full[s], 1), hop::barrier_init(&m.v_full[s], 1);
      hop::barrier_init(&m.k_empty[s], kConsumerWarps);
      hop::barrier_init(&m.v_empty[s], kConsumerWarps);
    }
    hop::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < kGroupThreads) {
    hop::release_registers<24>();
    if (threadIdx.x == 0) load_forward<kDim>(m, &qkv, args);
  } else {
    hop::take_registers<240>();
    compute_forward<kDim, kDrop>(m, &y, args);
  }
#endif
}

template <int kDim, bool kDrop>
void launch(const Forward<Bf16>& f, const Keep& keep) {
  ForwardArgs args{};
  args.keep = keep;
  const int64_t streamed = int64_t{2} * f.queries * kDim * static_cast<int64_t>(sizeof(Bf16));
  args.order = order_of(f.batch, f.heads, f.queries, streamed, true);
  args.tokens = f.queries, args.scale = f.scale, args.lse = f.lse;
  const CUtensorMap qkv = packed_map(f.q.data, f.batch, f.queries, 3, f.heads, kDim, kTileRows);
  const CUtensorMap y = packed_map(f.y.data, f.batch, f.queries, 1, f.heads, kDim, kGroupRows);
  const auto kernel = &hopper_forward_kernel<kDim, kDrop>;
  constexpr int kBytes = sizeof(ForwardShared<kDim>);
  allow_shared_memory(reinterpret_cast<const void*>(kernel), kBytes);
  const int64_t tiles = int64_t{args.order.tiles} * args.order.b_heads;
  const unsigned blocks = grid(tiles, 1, multiprocessors());
  kernel<<<blocks, kHopperThreads, kBytes, stream()>>>(qkv, y, args);
  PM_LAUNCHED();
}

}  // namespace

bool hopper_takes(int dim, const void* x, const void* y) {
  return (dim == 64 || dim == 128) && reinterpret_cast<uintptr_t>(x) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(y) % 16 == 0 && has_hopper_kernels();
}

void hopper_forward(const Forward<Bf16>& f) {
  const KeepBits bits(f.drop, f.batch, f.heads, f.queries, false);
  const Keep& keep = bits.keep();
  if (f.drop.threshold == 0) {
    return f.dim == 64 ? launch<64, false>(f, keep) : launch<128, false>(f, keep);
  }
  f.dim == 64 ? launch<64, true>(f, keep) : launch<128, true>(f, keep);
}

}  // namespace pyramoe::gpu::attention
