// The grouped products on Hopper: a persistent kernel of three warpgroups a multiprocessor.
//
// One producer warp keeps a ring of four stages full by bulk copies (TMA); two consumer warpgroups
// multiply them with wgmma, 64 rows of a 128 x 256 tile of C each, with 128 sums a thread. While
// they write one tile out, the producer already fetches the next. Why it is fast: no operand is
// ever copied or transposed (what does not run along k goes to wgmma as an MN-major operand);
// blocks share weight tiles, in L2 and on the way from there (grouped_hopper.cuh); finishing (bias,
// GELU) costs no pass over memory. Ragged ends: rows beyond a segment in A only spoil rows of C
// that are not stored; in dw, where k runs over rows, they are zeroed in shared memory; stores
// check each row. What else a tile's end reads must be asked for long before: the ring keeps so
// many bytes on their way that a load waits for microseconds. So pre comes through the ring, as one
// stage a consumer behind the last k, and a bias is read first.
#include "cuda/grouped_hopper.cuh"

namespace pyramoe::gpu::grouped {
namespace {

using namespace hopper;

using Place = Ring<kStages>;

// One thread fills the ring.
template <Form F, Finish E>
__device__ void produce(const Product& p, const CUtensorMap* a, const CUtensorMap* b,
                        const CUtensorMap* pre, Shared& s) {
  Place ring;
  Walk<F> walk(p, s.before);
  Tile t;
  while (walk.take(t)) {
    for (int k = 0; k < t.depth; k += 64, ring.next()) {
      barrier_wait(&s.empty[ring.stage], ring.parity ^ 1);
      load_stage<F>(s.stages[ring.stage], a, b, &s.full[ring.stage], t, k, walk.rank);
    }
    if constexpr (E == Finish::gelu_backward) {
      for (int group = 0; group < 2; ++group, ring.next()) {
        const int boxes = t.row + 64 * group < t.end ? kColumnBoxes : 0;
        uint64_t* full = &s.full[ring.stage];
        barrier_wait(&s.empty[ring.stage], ring.parity ^ 1);
        barrier_expect(full, boxes * kBoxBytes);
        for (int i = 0; i < boxes; ++i) {
          tma_load(s.stages[ring.stage] + i * kBoxBytes, pre, full, t.column + 64 * i,
                   t.row + 64 * group, 0);
        }
      }
    }
  }
  if constexpr (kBlocks<F> == 2) wait_for_all(s, ring);
}

// dw: the lines of a stage beyond the segment's end become zero, in all six boxes. The sum of what
// they hold must not count, and they may hold another expert's rows or no numbers at all.
[[maybe_unused]] __device__ __forceinline__ void zero_lines(uint8_t* stage, int from) {
  const int thread = static_cast<int>(threadIdx.x) - 128;
  const int vectors = (64 - from) * 8;  // of 16 bytes, in one box
  for (int i = thread; i < (kRowBoxes + kColumnBoxes) * vectors; i += 256) {
    const int box = i / vectors, at = i - box * vectors;
    *reinterpret_cast<uint4*>(stage + box * kBoxBytes + from * 128 + at * 16) = uint4{};
  }
  fence_async_proxy();
  named_barrier_sync(1, 256);
}

template <Form F>
__device__ __forceinline__ void multiply_stage(float (&sum)[128], uint32_t a, uint32_t b,
                                               bool first) {
  constexpr Major major_a = F == Form::dw ? Major::mn : Major::k;
  constexpr Major major_b = F == Form::forward ? Major::k : Major::mn;
  constexpr int step_a = major_a == Major::k ? 32 : 2048, step_b = major_b == Major::k ? 32 : 2048;
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    wgmma<major_a, major_b>(sum, tile_descriptor<major_a>(a + k * step_a, kBoxBytes),
                            tile_descriptor<major_b>(b + k * step_b, kBoxBytes), !first || k > 0);
  }
  wgmma_commit();
}

// The sums of a tile: runs over its stages, each given back when nobody reads it any more.
template <Form F>
__device__ __forceinline__ void multiply_tile(float (&sum)[128], const Tile& t, Shared& s,
                                              Place& ring, int group, bool idle) {
  int held = -1;  // the stage that the products under way still read
  for (int k = 0; k < t.depth; k += 64, ring.next()) {
    barrier_wait(&s.full[ring.stage], ring.parity);
    if constexpr (F == Form::dw) {
      if (t.depth - k < 64) zero_lines(s.stages[ring.stage], t.depth - k);
    }
    if (!idle) {
      const uint32_t stage = shared_address(s.stages[ring.stage]);
      multiply_stage<F>(sum, stage + static_cast<uint32_t>(group * kBoxBytes),
                        stage + kRowBoxes * kBoxBytes, k == 0);
      wgmma_wait<1>();
    }
    if (held >= 0) give_back<F>(s, held);
    held = ring.stage;
  }
  wgmma_wait<0>();
  if (held >= 0) give_back<F>(s, held);
  if (F == Form::dw && t.depth == 0) {
#pragma unroll
    for (int i = 0; i < 128; ++i) sum[i] = 0;
  }
  wgmma_touch(sum);
}

// The stage that holds this warpgroup's rows of pre; the other one goes back unread.
template <Form F>
__device__ __forceinline__ int take_pre(Shared& s, Place& ring, int group) {
  int mine = 0;
  for (int i = 0; i < 2; ++i, ring.next()) {
    barrier_wait(&s.full[ring.stage], ring.parity);
    if (i == group) {
      mine = ring.stage;
    } else {
      give_back<F>(s, ring.stage);
    }
  }
  return mine;
}

template <Form F, Finish E, class TC>
__device__ void consume(const Product& p, const CUtensorMap* c, Shared& s) {
  const int group = static_cast<int>(threadIdx.x) / 128 - 1;  // 0 or 1: 64 rows each
  Exit exit{s.slots[group], group, static_cast<int>(threadIdx.x) / 32 % 4, threadIdx.x % 128 == 0};
  Place ring;
  Walk<F> walk(p, s.before);
  Tile t;
  while (walk.take(t)) {
    float sum[128];
    const int row = t.row + 64 * group;
    const bool idle = row >= t.end;
    [[maybe_unused]] Bias bias;
    if constexpr (F == Form::forward) bias.load(p, t.expert, t.column);
    multiply_tile<F>(sum, t, s, ring, group, idle);
    if constexpr (E == Finish::gelu_backward) {
      const int pre = take_pre<F>(s, ring, group);
      if (!idle) store_tile<F, E>(p, sum, exit, s.stages[pre], row, t.end, t.column);
      __syncwarp();
      give_back<F>(s, pre);
      continue;
    }
    if (idle) continue;
    if constexpr (F == Form::forward) bias.add(sum);
    if constexpr (F == Form::dw) {
      if (p.accumulate && t.depth == 0) continue;
      if (sizeof(TC) == 4 || p.accumulate) {
        send_tile<F, TC>(p, c, sum, exit, row, t.column, t.expert);
      } else {
        const int64_t base = static_cast<int64_t>(t.expert) * p.m;
        store_tile<F, E>(p, sum, exit, nullptr, base + row, base + t.end, t.column);
      }
    } else if (E == Finish::plain && row + 64 <= t.end) {
      send_tile<F, TC>(p, c, sum, exit, row, t.column, 0);
    } else {
      store_tile<F, E>(p, sum, exit, nullptr, row, t.end, t.column);
    }
  }
  if (exit.speaker) tma_store_wait_read<0>();
}

template <Form F, Finish E, class TC>
__global__ __launch_bounds__(kHopperThreads, 1)  //
    void hopper_kernel(const Product p, const __grid_constant__ CUtensorMap a,
                       const __grid_constant__ CUtensorMap b,
                       const __grid_constant__ CUtensorMap c) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  set_up<F>(p, s, &a, &b, &c);
  if (threadIdx.x < 128) {
    release_registers<40>();
    if (threadIdx.x == 0) produce<F, E>(p, &a, &b, &c, s);
  } else {
    take_registers<232>();
    consume<F, E, TC>(p, &c, s);
  }
#endif
}

// One block a multiprocessor, but no more than there may be tiles.
template <Form F, Finish E, class TC>
void launch(const Product& p, int multiprocessors, cudaStream_t stream) {
  const bool forward = F == Form::forward;
  const CUtensorMap a = rows_map(p.a, p.rows, forward ? p.k : p.m);
  const CUtensorMap b = F == Form::dw ? rows_map(p.b, p.rows, p.k) : weight_map(p);
  const CUtensorMap c = result_map<TC>(p, E == Finish::gelu_backward ? p.pre : p.c);
  const int64_t columns = ceil_div(forward ? p.m : p.k, kTileColumns);
  const int64_t rows = F == Form::dw ? p.experts * ceil_div(p.m, kTileRows)
                                     : p.rows / kTileRows + p.experts;  // at most
  const int64_t clusters =
      std::min<int64_t>(columns * rows, std::max(1, multiprocessors / kBlocks<F>));
  const auto kernel = hopper_kernel<F, E, TC>;
  const size_t bytes = sizeof(Shared) + static_cast<size_t>(p.experts) * 4;
  allow_shared_memory(reinterpret_cast<const void*>(kernel), static_cast<int>(bytes));
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeClusterDimension;
  together.val.clusterDim = {kBlocks<F>, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(clusters * kBlocks<F>));
  config.blockDim = dim3(kHopperThreads);
  config.dynamicSmemBytes = bytes, config.stream = stream;
  config.attrs = &together, config.numAttrs = kBlocks<F> == 2 ? 1 : 0;
  PM_CUDA(cudaLaunchKernelEx(&config, kernel, p, a, b, c));
}

}  // namespace

bool fits_hopper(const Product& p) {
  const auto aligned = [](const void* x) { return reinterpret_cast<uintptr_t>(x) % 16 == 0; };
  return p.bf16 && p.m > 0 && p.k > 0 && p.rows > 0 && p.experts > 0 && p.m % 8 == 0 &&
         p.k % 8 == 0 && p.experts <= kMostHopperExperts && !(p.wide && p.form == Form::dx) &&
         aligned(p.a) && aligned(p.b) && aligned(p.c) && aligned(p.pre) && aligned(p.extra) &&
         aligned(p.bias) &&
         (p.rows / kTileRows + p.experts) * ceil_div(std::max(p.m, p.k), kTileColumns) < (1 << 30);
}

void hopper(const Product& p, int multiprocessors, cudaStream_t stream) {
  if (p.form == Form::forward) {
    (p.finish == Finish::gelu
         ? launch<Form::forward, Finish::gelu, Bf16>
         : launch<Form::forward, Finish::plain, Bf16>)(p, multiprocessors, stream);
  } else if (p.form == Form::dx) {
    (p.finish == Finish::gelu_backward
         ? launch<Form::dx, Finish::gelu_backward, Bf16>
         : launch<Form::dx, Finish::plain, Bf16>)(p, multiprocessors, stream);
  } else {
    (p.wide ? launch<Form::dw, Finish::plain, float>
            : launch<Form::dw, Finish::plain, Bf16>)(p, multiprocessors, stream);
  }
}

}  // namespace pyramoe::gpu::grouped
