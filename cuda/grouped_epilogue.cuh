// From wgmma's registers to global memory: the end of a tile of a grouped product.
//
// A warpgroup holds 64 rows x 256 columns, two neighbouring columns a register pair: stores from
// there would touch eight rows at a time. So sums pass through two slots of shared memory, 64 lines
// of 128 bytes each, and leave in one of two ways. By the copy engine: whole boxes of plain sums,
// and what is added to C, which nobody has to read then. By hand, 16 bytes a lane, eight lanes a
// line: what GELU finishes, fresh bf16 weight gradients, and the box that a segment ends in.
#pragma once

#include "cuda/grouped_finish.cuh"
#include "cuda/hopper.cuh"

namespace pyramoe::gpu::grouped {

constexpr int kTileRows = 128, kTileColumns = 256;
constexpr int kSlotBytes = 64 * 128;

// One warpgroup's way out.
struct Exit {
  uint8_t* slots;  // two
  int group;       // 0 or 1
  int warp;        // 0 to 3: lines 16 warp ... of a slot
  bool speaker;    // the one thread that talks to the copy engine
  int slot = 0;    // the next one
  __device__ __forceinline__ void meet() const { hopper::named_barrier_sync(2 + group, 128); }
};

// 64 columns of a warp's sums as bf16. stmatrix: its four matrices are lines 0-7 and 8-15 of one
// chunk of 8 columns, then of the next.
__device__ __forceinline__ void stage(const float* sum, uint8_t* slot, int warp, Bf16) {
  const int lane = static_cast<int>(threadIdx.x) % 32, matrix = lane / 8;
  const int line = 16 * warp + matrix % 2 * 8 + lane % 8;
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    const float *x = sum + 4 * j, *y = x + 4;
    const int at = hopper::swizzled_offset(line, 16 * (j + matrix / 2));
    hopper::store_matrices(hopper::shared_address(slot + at), hopper::pack_bf16(x[0], x[1]),
                           hopper::pack_bf16(x[2], x[3]), hopper::pack_bf16(y[0], y[1]),
                           hopper::pack_bf16(y[2], y[3]));
  }
}
// 32 columns as f32.
__device__ __forceinline__ void stage(const float* sum, uint8_t* slot, int warp, float) {
  const int lane = static_cast<int>(threadIdx.x) % 32, line = 16 * warp + lane / 4, pair = lane % 4;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      *reinterpret_cast<float2*>(slot +
                                 hopper::swizzled_offset(line + 8 * half, 32 * j + 8 * pair)) =
          make_float2(sum[4 * j + 2 * half], sum[4 * j + 2 * half + 1]);
    }
  }
}

// The bias of a tile's columns, read before its products and added after them.
struct Bias {
  uint32_t pairs[32];
  __device__ __forceinline__ void load(const Product& p, int expert, int column) {
    const int width = p.bias ? static_cast<int>(p.m) - column : 0;
    const Bf16* from = static_cast<const Bf16*>(p.bias) + expert * p.m + column;
    const int pair = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int j = 0; j < 32; ++j) {  // widths are multiples of 8: a pair is in or out
      const int at = 8 * j + pair;
      pairs[j] = at < width ? *reinterpret_cast<const uint32_t*>(from + at) : 0;
    }
  }
  __device__ __forceinline__ void add(float (&sum)[128]) const {
#pragma unroll
    for (int j = 0; j < 32; ++j) {
      const float b0 = __uint_as_float(pairs[j] << 16);
      const float b1 = __uint_as_float(pairs[j] & 0xffff0000u);
      sum[4 * j] += b0, sum[4 * j + 1] += b1, sum[4 * j + 2] += b0, sum[4 * j + 3] += b1;
    }
  }
};

// 128 bytes of columns through the next slot, when what lay there has been read.
template <class TC, class Send>
__device__ __forceinline__ void pass(Exit& exit, const float* sum, Send&& send) {
  uint8_t* to = exit.slots + exit.slot * kSlotBytes;
  exit.slot ^= 1;
  if (exit.speaker) hopper::tma_store_wait_read<1>();
  exit.meet();
  stage(sum, to, exit.warp, TC{});
  hopper::fence_async_proxy();
  exit.meet();
  if (exit.speaker) {
    send(to);
    hopper::tma_store_commit();
  }
}

// The warpgroup's 64 rows from `row` on, by the copy engine; what lies outside C is not written.
template <Form F, class TC>
__device__ __forceinline__ void send_tile(const Product& p, const CUtensorMap* c,
                                          const float (&sum)[128], Exit& exit, int row, int column,
                                          int plane) {
  constexpr int width = 128 / sizeof(TC);
  const auto columns = static_cast<int>(F == Form::forward ? p.m : p.k);
#pragma unroll
  for (int part = 0; part < kTileColumns / width; ++part) {
    const int x = column + part * width;
    if (x >= columns) break;  // the same for all
    pass<TC>(exit, sum + part * width / 2, [&](const uint8_t* slot) {
      if (F == Form::dw && p.accumulate) {
        hopper::tma_add(c, slot, x, row, plane);
      } else {
        hopper::tma_store(c, slot, x, row, plane);
      }
    });
  }
}

// The 16 bytes of C at `i`, from their sums x (already rounded).
template <Finish E>
__device__ __forceinline__ void finish_vec(const Product& p, int64_t i, Vec<Bf16> x,
                                           const Vec<Bf16>& pre) {
  if constexpr (E != Finish::plain) {
    Vec<Bf16> y;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const GeluBoth g = Gelu<Bf16>::both(to_float(E == Finish::gelu ? x.v[j] : pre.v[j]));
      y.v[j] = from_float<Bf16>(g.value);
      if (E == Finish::gelu_backward) x.v[j] = from_float<Bf16>(to_float(x.v[j]) * g.slope);
    }
    if (E == Finish::gelu || p.extra) store_vec(static_cast<Bf16*>(p.extra) + i, y);
  }
  store_vec(static_cast<Bf16*>(p.c) + i, x);
}

// The warp's 16 lines from `row` on (those below `end`), by hand; pre: the warpgroup's four boxes.
template <Form F, Finish E>
__device__ __forceinline__ void store_tile(const Product& p, const float (&sum)[128],
                                           const Exit& exit, const uint8_t* pre, int64_t row,
                                           int64_t end, int column) {
  constexpr int passes = 4, lines = 4;  // lines a pass
  const auto columns = static_cast<int>(F == Form::forward ? p.m : p.k);
  const int lane = static_cast<int>(threadIdx.x) % 32, line = lane / 8, chunk = lane % 8;
  row += 16 * exit.warp + line;
  const int64_t corner = row * columns + column + 8 * chunk;
  const auto rows = static_cast<int>(min(int64_t{64}, end - row));
  const int left = columns - column - 8 * chunk;
  if (exit.speaker) hopper::tma_store_wait_read<0>();
  exit.meet();
#pragma unroll
  for (int part = 0; part < kTileColumns / 64; ++part) {
    uint8_t* slot = exit.slots + part % 2 * kSlotBytes;
    stage(sum + 32 * part, slot, exit.warp, Bf16{});
    __syncwarp();
#pragma unroll
    for (int i = 0; i < passes; ++i) {
      const int at = hopper::swizzled_offset(16 * exit.warp + line + lines * i, 16 * chunk);
      const Vec<Bf16> x = load_vec(reinterpret_cast<const Bf16*>(slot + at));
      Vec<Bf16> old = x;
      if (lines * i >= rows || 64 * part >= left) continue;
      const int64_t to = corner + 64 * part + lines * i * columns;
      if constexpr (E == Finish::gelu_backward) {
        old = load_vec(reinterpret_cast<const Bf16*>(pre + part * kSlotBytes + at));
      }
      finish_vec<E>(p, to, x, old);
    }
    __syncwarp();  // stmatrix wants the whole warp
  }
}

}  // namespace pyramoe::gpu::grouped
