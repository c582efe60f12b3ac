// The grouped products on Hopper: a persistent kernel of three warpgroups a multiprocessor.
//
// One producer warp keeps a ring of four stages full by bulk copies (TMA); two consumer warpgroups
// multiply them with wgmma, 64 rows of a 128 x 256 tile of C each, with 128 sums a thread. A tile's
// sums wait in 64 more registers and are finished and stored while the next tile's products run
// (grouped_epilogue.cuh). Why it is fast: the tensor cores never wait for an end of a tile; no
// operand is ever copied or transposed (what does not run along k goes to wgmma as an MN-major
// operand); blocks share weight tiles, in L2 and on the way from there (grouped_hopper.cuh).
// Ragged ends: rows beyond a segment in A only spoil rows of C that are not stored; in dw, where k
// runs over rows, they are zeroed in shared memory; the last rows are stored one by one. The ring
// keeps so many bytes on their way that a load waits for microseconds: what a tile's end reads
// (pre, a bias) is asked for long before.
#include "cuda/grouped_hopper.cuh"

namespace pyramoe::gpu::grouped {
namespace {

using namespace hopper;

// One thread fills the ring.
template <Form F>
__device__ void produce(const Product& p, const Maps& maps, Shared& s) {
  const auto rank = static_cast<int>(cluster_rank());
  Ring<kStages> ring;
  Walk<F> walk(p, s.before);
  Tile t;
  bool more = walk.take(t);
  while (more) {
    const Tile now = t;
    more = walk.take(t);  // its loads are long back when they are needed
    for (int k = 0; k < now.depth; k += 64, ring.next()) {
      barrier_wait(&s.empty[ring.stage], ring.parity ^ 1);
      load_stage<F>(s.stages[ring.stage], maps, &s.full[ring.stage], now, k, rank);
    }
  }
  wait_for_all(s, ring);
}

// dw: the lines of a stage beyond the segment's end become zero, in all six boxes. The sum of what
// they hold must not count, and they may hold another expert's rows or no numbers at all.
[[maybe_unused]] __device__ __forceinline__ void zero_lines(uint8_t* stage, int from) {
  const auto thread = static_cast<int>(threadIdx.x) - 128;
  for (int line = from + thread / 8; line < 64; line += 32) {
    uint8_t* at = stage + line * 128 + thread % 8 * 16;
#pragma unroll
    for (int box = 0; box < kRowBoxes + kColumnBoxes; ++box) {
      *reinterpret_cast<uint4*>(at + box * kBoxBytes) = uint4{};
    }
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

// A consumer warpgroup at work on a tile.
template <Form F>
struct Consumer {
  Shared& s;
  int group;  // 0 or 1: 64 rows each
  Ring<kStages> ring;
  bool idle;      // no rows of this tile
  int held = -1;  // the stage that the products under way still read

  // The products of k in [from, to). A stage is given back when nobody reads it any more. In dw, a
  // last stage that the segment does not fill is for the call with Last: both warpgroups meet
  // there.
  template <bool Last = false>
  __device__ __forceinline__ void multiply(float (&sum)[128], int from, int to) {
#pragma unroll 1
    for (int k = from; k < to; k += 64, ring.next()) {
      barrier_wait(&s.full[ring.stage], ring.parity);
      if constexpr (F == Form::dw && Last) {
        if (to - k < 64) zero_lines(s.stages[ring.stage], to - k);
      }
      if (!idle) {
        const uint32_t stage = shared_address(s.stages[ring.stage]);
        multiply_stage<F>(sum, stage + static_cast<uint32_t>(group * kBoxBytes),
                          stage + kRowBoxes * kBoxBytes, k == 0);
        wgmma_wait<1>();
      }
      if (held >= 0) give_back(s, held);
      held = ring.stage;
    }
  }
  __device__ __forceinline__ void finish(float (&sum)[128]) {
    wgmma_wait<0>();
    if (held >= 0) give_back(s, held);
    held = -1;
    wgmma_touch(sum);
  }
};

// How many stages of a tile are multiplied before helping h of n leaves. The two warpgroups take
// turns: while one stores, the other keeps the tensor cores busy.
__device__ __forceinline__ int stages_before(int h, int n, int group, int stages) {
  asm volatile("" : "+r"(stages));  // else all of them are kept in registers, for all tiles
  return ((2 * h + 1 + group) * stages + 2 * n - 1) / (2 * n);
}

template <Form F, Finish E, class TC>
__device__ void consume(const Product& p, const Maps& maps, Shared& s) {
  using Out = Waiting<F, E>;
  const int warp = static_cast<int>(threadIdx.x) / 32 - 4;
  const Exit exit{s.areas[warp], &s.landed[warp], maps};
  Consumer<F> consumer{s, warp / 4, {}, false};
  Out out;
  Walk<F> walk(p, s.before);
  Tile t;
  bool more = walk.take(t);
  while (more) {
    float sum[128];
    t.row += kWarpRows * warp;  // the warp's rows from here on
    consumer.idle = t.row - kWarpRows * (warp % 4) >= t.end;
    // A bias comes to registers that only a tile's last two stages have to spare.
    const int stages = (t.depth + 63) / 64;
    const bool with_bias = F == Form::forward && p.bias;
    const int early = F == Form::dw ? t.depth / 64 : with_bias ? max(0, stages - 2) : stages;
    int k = 0;
    for_each_index<Out::kHelpings>([&](auto h) {
      const int to = 64 * stages_before(h.value, Out::kHelpings, warp / 4, early);
      consumer.multiply(sum, k, to);
      k = to;
      if (out.any()) out.template leave<h.value>(p, exit);
    });
    consumer.template multiply<true>(sum, k, F == Form::dw ? t.depth : 64 * early);
    // What comes next is worked out while the last products run.
    if (F == Form::dw && p.accumulate && t.depth == 0) t.end = 0;  // nothing to add
    out.target = {t.row, min(t.end - t.row, kWarpRows), t.column, F == Form::dw ? t.expert : 0};
    const int expert = t.expert, depth = t.depth;
    more = walk.take(t);
    if (with_bias) {
      Bias bias;
      bias.load(p, expert, out.target.column);
      consumer.multiply(sum, 64 * early, depth);
      consumer.finish(sum);
      bias.add(sum);
    } else {
      consumer.finish(sum);
    }
    if (F == Form::dw && depth == 0) {
#pragma unroll
      for (int i = 0; i < 128; ++i) sum[i] = 0;
    }
    if constexpr (sizeof(TC) == 4) {
      send<F>(p, sum, exit, out.target);
      out.target.rows = 0;
    } else {
      out.take(sum);
    }
  }
  out.leave_all(p, exit);
  if (exit.speaks()) tma_store_wait_read<0>();
}

template <Form F, Finish E, class TC>
__global__ __launch_bounds__(kHopperThreads, 1)  //
    void hopper_kernel(const Product p, const __grid_constant__ Maps maps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<Shared*>(memory);
  set_up<F>(p, s, maps);
  if (threadIdx.x < 128) {
    release_registers<40>();
    if (threadIdx.x == 0) produce<F>(p, maps, s);
  } else {
    take_registers<232>();
    consume<F, E, TC>(p, maps, s);
  }
#endif
}

// One block a multiprocessor, but no more than there may be tiles.
template <Form F, Finish E, class TC>
void launch(const Product& p, int multiprocessors, cudaStream_t stream) {
  const bool forward = F == Form::forward;
  Maps maps;
  maps.whole = F == Form::dw && p.m % 256 == 0 && p.k % 64 == 0;
  if (maps.whole) {
    maps.a = blocks_map(p.a, p.rows, p.m, kRowBoxes);
    maps.b = blocks_map(p.b, p.rows, p.k, kColumnBoxes / 2);
  } else {
    maps.a = rows_map(p.a, p.rows, forward ? p.k : p.m);
    maps.b = F == Form::dw ? rows_map(p.b, p.rows, p.k) : weight_map(p);
  }
  maps.c = result_map<TC>(p, p.c);
  maps.extra = p.extra ? result_map<TC>(p, p.extra) : maps.c;
  maps.pre = p.pre ? result_map<TC>(p, p.pre) : maps.c;
  const int64_t columns = ceil_div(forward ? p.m : p.k, kTileColumns);
  const int64_t rows = F == Form::dw ? p.experts * ceil_div(p.m, kTileRows)
                                     : p.rows / kTileRows + p.experts;  // at most
  const int64_t clusters =
      std::min<int64_t>(columns * rows, std::max(1, multiprocessors / kBlocks));
  const auto kernel = hopper_kernel<F, E, TC>;
  const size_t bytes = sizeof(Shared) + static_cast<size_t>(p.experts) * 4;
  allow_shared_memory(reinterpret_cast<const void*>(kernel), static_cast<int>(bytes));
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeClusterDimension;
  together.val.clusterDim = {kBlocks, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(clusters * kBlocks));
  config.blockDim = dim3(kHopperThreads);
  config.dynamicSmemBytes = bytes, config.stream = stream;
  config.attrs = &together, config.numAttrs = 1;
  PM_CUDA(cudaLaunchKernelEx(&config, kernel, p, maps));
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
