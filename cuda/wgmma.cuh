// wgmma, Hopper's matrix product: D (64, N) += A (64, 16) B (16, N), bf16 in, f32 sums, issued by a
// warpgroup (4 warps that start at a warp index divisible by 4) and run while the warps go on.
//
// D lives in registers. Thread t of the warpgroup (warp w = t / 32, lane l = t % 32) holds N / 2
// floats, d[4 j + i], j < N / 8:
//   row 16 w + l / 4 (+ 8 for i = 2, 3), column 8 j + 2 (l % 4) + i % 2.
// A and B come from shared memory through descriptors (hopper.cuh makes them), A also from
// registers: four pairs a[0..3], the lower k in the lower half, at
//   row 16 w + l / 4 (+ 8 for a[1], a[3]), k 2 (l % 4) + {0, 1} (+ 8 for a[2], a[3]).
// "Major" names the index that runs fastest in memory. Source: PTX ISA, wgmma.mma_async.
#pragma once

#include <cstdint>

namespace pyramoe::gpu::hopper {

enum class Major { k = 0, mn = 1 };

// Registers of D and A are about to be read by wgmma: orders their earlier writes before it.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most N committed groups are still running.
template <int N>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// Tells the compiler that d changes here, so that it moves no use of d across a wait.
template <int N>
__device__ __forceinline__ void wgmma_touch(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// The operand lists of the instruction, eight registers at a time.
#define PM_W8(a, b, c, d, e, f, g, h) \
  "%" #a ", %" #b ", %" #c ", %" #d ", %" #e ", %" #f ", %" #g ", %" #h
#define PM_W32                                                                                    \
  PM_W8(0, 1, 2, 3, 4, 5, 6, 7)                                                                   \
  ", " PM_W8(8, 9, 10, 11, 12, 13, 14, 15) ", " PM_W8(16, 17, 18, 19, 20, 21, 22, 23) ", " PM_W8( \
      24, 25, 26, 27, 28, 29, 30, 31)
#define PM_W64                                                               \
  PM_W32 ", " PM_W8(32, 33, 34, 35, 36, 37, 38, 39) ", " PM_W8(              \
      40, 41, 42, 43, 44, 45, 46, 47) ", " PM_W8(48, 49, 50, 51, 52, 53, 54, \
                                                 55) ", " PM_W8(56, 57, 58, 59, 60, 61, 62, 63)
#define PM_W96                                                               \
  PM_W64 ", " PM_W8(64, 65, 66, 67, 68, 69, 70, 71) ", " PM_W8(              \
      72, 73, 74, 75, 76, 77, 78, 79) ", " PM_W8(80, 81, 82, 83, 84, 85, 86, \
                                                 87) ", " PM_W8(88, 89, 90, 91, 92, 93, 94, 95)
#define PM_W128                                                                                   \
  PM_W96 ", " PM_W8(96, 97, 98, 99, 100, 101, 102, 103) ", " PM_W8(                               \
      104, 105, 106, 107, 108, 109, 110, 111) ", " PM_W8(112, 113, 114, 115, 116, 117, 118,       \
                                                         119) ", " PM_W8(120, 121, 122, 123, 124, \
                                                                         125, 126, 127)
#define PM_D8(i)                                                                      \
  "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3]), "+f"(d[(i) + 4]), \
      "+f"(d[(i) + 5]), "+f"(d[(i) + 6]), "+f"(d[(i) + 7])
#define PM_D32(i) PM_D8(i), PM_D8((i) + 8), PM_D8((i) + 16), PM_D8((i) + 24)

// One instruction with A from shared memory: operands n0 .. n0 + 4 follow the registers of D.
#define PM_WGMMA_SS(N, REGS, n0, n1, n2, n3, n4, ...)                                             \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #n2                                           \
               ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGS "}, %" #n0 \
               ", %" #n1 ", p, 1, 1, %" #n3 ", %" #n4 ";\n}\n"                                    \
               : __VA_ARGS__                                                                      \
               : "l"(a), "l"(b), "r"(add), "n"(static_cast<int>(A)), "n"(static_cast<int>(B)))
// And with A from registers (K-major by nature).
#define PM_WGMMA_RS(N, REGS, n0, n1, n2, n3, n4, n5, n6, ...)                                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #n5                                            \
               ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGS "}, {%" #n0 \
               ", %" #n1 ", %" #n2 ", %" #n3 "}, %" #n4 ", p, 1, 1, %" #n6 ";\n}\n"                \
               : __VA_ARGS__                                                                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add),                     \
                 "n"(static_cast<int>(B)))

// d = a b (+ d when add != 0). N follows from d: 32 registers are N = 64, 128 are N = 256.
template <Major A = Major::k, Major B = Major::k, int Regs>
__device__ __forceinline__ void wgmma(float (&d)[Regs], uint64_t a, uint64_t b, int add) {
  static_assert(Regs == 32 || Regs == 64 || Regs == 96 || Regs == 128, "N is 64, 128, 192 or 256");
  if constexpr (Regs == 32) {
    PM_WGMMA_SS(64, PM_W32, 32, 33, 34, 35, 36, PM_D32(0));
  } else if constexpr (Regs == 64) {
    PM_WGMMA_SS(128, PM_W64, 64, 65, 66, 67, 68, PM_D32(0), PM_D32(32));
  } else if constexpr (Regs == 96) {
    PM_WGMMA_SS(192, PM_W96, 96, 97, 98, 99, 100, PM_D32(0), PM_D32(32), PM_D32(64));
  } else {
    PM_WGMMA_SS(256, PM_W128, 128, 129, 130, 131, 132, PM_D32(0), PM_D32(32), PM_D32(64),
                PM_D32(96));
  }
}

// The same with A in registers.
template <Major B = Major::k, int Regs>
__device__ __forceinline__ void wgmma(float (&d)[Regs], const uint32_t (&a)[4], uint64_t b,
                                      int add) {
  static_assert(Regs == 32 || Regs == 64 || Regs == 96 || Regs == 128, "N is 64, 128, 192 or 256");
  if constexpr (Regs == 32) {
    PM_WGMMA_RS(64, PM_W32, 32, 33, 34, 35, 36, 37, 38, PM_D32(0));
  } else if constexpr (Regs == 64) {
    PM_WGMMA_RS(128, PM_W64, 64, 65, 66, 67, 68, 69, 70, PM_D32(0), PM_D32(32));
  } else if constexpr (Regs == 96) {
    PM_WGMMA_RS(192, PM_W96, 96, 97, 98, 99, 100, 101, 102, PM_D32(0), PM_D32(32), PM_D32(64));
  } else {
    PM_WGMMA_RS(256, PM_W128, 128, 129, 130, 131, 132, 133, 134, PM_D32(0), PM_D32(32), PM_D32(64),
                PM_D32(96));
  }
}

#undef PM_W8
#undef PM_W32
#undef PM_W64
#undef PM_W96
#undef PM_W128
#undef PM_D8
#undef PM_D32
#undef PM_WGMMA_SS
#undef PM_WGMMA_RS

}  // namespace pyramoe::gpu::hopper
