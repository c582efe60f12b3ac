// From wgmma's registers to global memory: the end of a tile of a grouped product.
//
// A tile's sums do not leave at once. Rounded to bf16, two a register, they wait while the products
// of the next tile run, and go out in four parts between them: so GELU, its slope and the stores
// cost the tensor cores nothing. Each warp sees to its own 16 rows, 64 columns a part. A warp holds
// two neighbouring columns a register: stores from there would touch eight rows at a time, so a
// part passes through an area of shared memory and leaves by the copy engine (which may also add it
// to C, so that nobody has to read C), or by hand, eight lanes a line, where a segment ends. GELU's
// input (pre) lands in such an area, asked for half a part ahead. f32 sums, twice as many bytes, do
// not wait.
#pragma once

#include "cuda/grouped_finish.cuh"
#include "cuda/hopper.cuh"

namespace pyramoe::gpu::grouped {

constexpr int kTileRows = 128, kTileColumns = 256;
constexpr int kWarpRows = 16;
constexpr int kAreaBytes = kWarpRows * 128, kAreas = 2;
constexpr int kParts = kTileColumns / 64;

// All that the copy engine moves.
struct Maps {
  CUtensorMap a, b, c, extra, pre;
  bool whole = false;  // dw: one box of a, one of b is all that a block fetches for a stage
};

// One warp's way out: two areas, boxes of the maps c, extra and pre.
struct Exit {
  uint8_t* areas;
  uint64_t* landed;  // pre is in the first area
  const Maps& maps;
  __device__ __forceinline__ bool speaks() const { return threadIdx.x % 32 == 0; }
  __device__ __forceinline__ uint8_t* area(int i) const { return areas + i % kAreas * kAreaBytes; }
  // Where this lane reads or writes 16 bytes of matrix rows: four matrices of 8 x 8 a step q, rows
  // 0-7 and 8-15 of one chunk of 8 columns, then of the next.
  __device__ __forceinline__ uint32_t matrices(int i, int q) const {
    const unsigned lane = threadIdx.x % 32;
    const unsigned at = lane % 16 * 128 + (16 * (lane / 16) ^ lane % 8 * 16);  // swizzled
    return hopper::shared_address(area(i)) + (at ^ 32u * static_cast<unsigned>(q));
  }
};

// Where a warp's rows of a tile go: lines row ... of C (dw: of the expert's plane), `rows` of 16.
struct Target {
  int row, rows, column, plane;
};

// The bias of a tile's columns, read a little before its products end and added after them.
struct Bias {
  uint32_t pairs[32];
  __device__ __forceinline__ void load(const Product& p, int expert, int column) {
    const int width = static_cast<int>(p.m) - column;
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
      const float b0 = hopper::low_bf16(pairs[j]), b1 = hopper::high_bf16(pairs[j]);
      sum[4 * j] += b0, sum[4 * j + 1] += b1, sum[4 * j + 2] += b0, sum[4 * j + 3] += b1;
    }
  }
};

// Runs f(Index<0>), f(Index<1>), ... f(Index<N - 1>).
template <int I>
struct Index {
  static constexpr int value = I;
};
template <int N, int I = 0, class Work>
__device__ __forceinline__ void for_each_index(Work&& f) {
  if constexpr (I < N) {
    f(Index<I>{});
    for_each_index<N, I + 1>(f);
  }
}

// The sums of a warp's rows of a tile, on their way out. They leave in helpings: a part each, or
// half a part where there is something to compute or to fetch.
template <Form F, Finish E>
struct Waiting {
  static constexpr int kHelpings = E == Finish::plain ? kParts : 2 * kParts;

  uint32_t sums[kTileColumns / 4];  // pairs: of each 8 columns, row lane / 4, then 8 rows on
  Target target{};

  __device__ __forceinline__ bool any() const { return target.rows > 0; }
  __device__ __forceinline__ void take(const float (&sum)[128]) {
#pragma unroll
    for (int i = 0; i < 64; ++i) sums[i] = hopper::pack_bf16(sum[2 * i], sum[2 * i + 1]);
  }

  template <int H>
  __device__ __forceinline__ void leave(const Product& p, const Exit& exit) {
    if constexpr (E == Finish::plain) {
      leave_plain<H>(p, exit);
    } else if constexpr (E == Finish::gelu) {
      leave_gelu<H / 2, H % 2>(p, exit);
    } else if constexpr (H % 2 == 0) {
      ask_for_pre<H / 2>(exit);
    } else {
      leave_slope<H / 2>(p, exit);
    }
  }
  __device__ __forceinline__ void leave_all(const Product& p, const Exit& exit) {
    if (any()) for_each_index<kHelpings>([&](auto h) { leave<h.value>(p, exit); });
    target.rows = 0;
  }

 private:
  template <int Part>
  __device__ __forceinline__ void leave_plain(const Product& p, const Exit& exit) {
    if (exit.speaks()) hopper::tma_store_wait_read<kAreas - 1>();
    __syncwarp();
#pragma unroll
    for (int q = 0; q < 4; ++q) put(exit.matrices(Part, q), sums + 16 * Part + 4 * q);
    send(
        p, exit, Part,
        [&] {
          const int x = target.column + 64 * Part;
          if (F == Form::dw && p.accumulate) {
            hopper::tma_add(&exit.maps.c, exit.area(Part), x, target.row, target.plane);
          } else {
            hopper::tma_store(&exit.maps.c, exit.area(Part), x, target.row, target.plane);
          }
        },
        [&] { store(p, exit, Part, Part, p.c); });
  }
  // c to the first area, gelu(c) to the second.
  template <int Part, int Half>
  __device__ __forceinline__ void leave_gelu(const Product& p, const Exit& exit) {
    if constexpr (Half == 0) {
      if (exit.speaks()) hopper::tma_store_wait_read<0>();
      __syncwarp();
    }
#pragma unroll
    for (int q = 2 * Half; q < 2 * Half + 2; ++q) {
      const uint32_t* x = sums + 16 * Part + 4 * q;
      uint32_t y[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        y[i] = hopper::pack_bf16(Gelu<Bf16>::value(hopper::low_bf16(x[i])),
                                 Gelu<Bf16>::value(hopper::high_bf16(x[i])));
      }
      put(exit.matrices(0, q), x);
      put(exit.matrices(1, q), y);
    }
    if constexpr (Half == 1) send_both(p, exit, Part, &exit.maps.c, p.c, &exit.maps.extra, p.extra);
  }
  template <int Part>
  __device__ __forceinline__ void ask_for_pre(const Exit& exit) {
    if (!exit.speaks()) return;
    hopper::tma_store_wait_read<0>();
    hopper::barrier_expect(exit.landed, kAreaBytes);
    hopper::tma_load(exit.area(0), &exit.maps.pre, exit.landed, target.column + 64 * Part,
                     target.row, 0);
  }
  // gelu(pre) in pre's place, c = sums * gelu'(pre) to the second area.
  template <int Part>
  __device__ __forceinline__ void leave_slope(const Product& p, const Exit& exit) {
    hopper::barrier_wait(exit.landed, Part % 2);
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const uint32_t* x = sums + 16 * Part + 4 * q;
      uint32_t pre[4], d[4];
      hopper::load_matrices(exit.matrices(0, q), pre);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const GeluBoth low = Gelu<Bf16>::both(hopper::low_bf16(pre[i]));
        const GeluBoth high = Gelu<Bf16>::both(hopper::high_bf16(pre[i]));
        d[i] = hopper::pack_bf16(hopper::low_bf16(x[i]) * low.slope,
                                 hopper::high_bf16(x[i]) * high.slope);
        pre[i] = hopper::pack_bf16(low.value, high.value);
      }
      put(exit.matrices(0, q), pre);
      put(exit.matrices(1, q), d);
    }
    send_both(p, exit, Part, &exit.maps.extra, p.extra, &exit.maps.c, p.c);
  }

  __device__ __forceinline__ static void put(uint32_t at, const uint32_t* x) {
    hopper::store_matrices(at, x[0], x[1], x[2], x[3]);
  }
  // What the warp has written leaves: by the copy engine, or by hand where the box would reach
  // beyond the segment.
  template <class Box, class Lines>
  __device__ __forceinline__ void send(const Product& p, const Exit& exit, int part, Box&& box,
                                       Lines&& lines) const {
    hopper::fence_async_proxy();
    __syncwarp();
    if (F == Form::dw || target.rows == kWarpRows) {
      if (!exit.speaks()) return;
      box();
      hopper::tma_store_commit();
    } else {
      lines();
      hopper::fence_async_proxy();
      __syncwarp();
    }
  }
  // The first area to `a`, the second to `b`; the one or the other may be missing.
  __device__ __forceinline__ void send_both(const Product& p, const Exit& exit, int part,
                                            const CUtensorMap* map_a, void* a,
                                            const CUtensorMap* map_b, void* b) const {
    send(
        p, exit, part,
        [&] {
          const int x = target.column + 64 * part;
          if (a) hopper::tma_store(map_a, exit.area(0), x, target.row, 0);
          hopper::tma_store(map_b, exit.area(1), x, target.row, 0);
        },
        [&] {
          if (a) store(p, exit, part, 0, a);
          store(p, exit, part, 1, b);
        });
  }
  // An area to part `part` of C or of what is shaped like it, 16 bytes a lane, eight lanes a line.
  __device__ __forceinline__ void store(const Product& p, const Exit& exit, int part, int area,
                                        void* to) const {
    const int64_t columns = F == Form::forward ? p.m : p.k;
    const auto lane = static_cast<int>(threadIdx.x % 32);
    const int column = target.column + 64 * part + lane % 8 * 8;
    if (column >= columns) return;
    for (int line = lane / 8; line < target.rows; line += 4) {
      const int at = hopper::swizzled_offset(line, 16 * (lane % 8));
      store_vec(static_cast<Bf16*>(to) + (target.row + line) * columns + column,
                load_vec(reinterpret_cast<const Bf16*>(exit.area(area) + at)));
    }
  }
};

// A warp's f32 sums, by the copy engine at once; what lies outside C is not written.
template <Form F>
__device__ __forceinline__ void send(const Product& p, const float (&sum)[128], const Exit& exit,
                                     const Target& t) {
  const int lane = static_cast<int>(threadIdx.x) % 32, line = lane / 4, pair = lane % 4;
  const auto columns = static_cast<int>(F == Form::forward ? p.m : p.k);
  if (t.rows <= 0) return;
#pragma unroll
  for (int part = 0; part < 2 * kParts; ++part) {
    const int x = t.column + 32 * part;
    if (x >= columns) break;
    uint8_t* area = exit.area(part);
    if (exit.speaks()) hopper::tma_store_wait_read<kAreas - 1>();
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 8; ++j) {  // rows line and line + 8, 8 columns at a time
      const float* from = sum + 16 * part + 2 * j;
      const int at = hopper::swizzled_offset(line + j % 2 * 8, j / 2 * 32 + 8 * pair);
      *reinterpret_cast<float2*>(area + at) = make_float2(from[0], from[1]);
    }
    hopper::fence_async_proxy();
    __syncwarp();
    if (!exit.speaks()) continue;
    if (p.accumulate) {
      hopper::tma_add(&exit.maps.c, area, x, t.row, t.plane);
    } else {
      hopper::tma_store(&exit.maps.c, area, x, t.row, t.plane);
    }
    hopper::tma_store_commit();
  }
}

}  // namespace pyramoe::gpu::grouped
