// What the portable kernels ask of every GPU since sm_80, one thin function each: copies to shared
// memory that run on while a warp works, 8 x 8 matrices to registers, the tensor cores' product.
// (cuda/hopper.cuh and cuda/wgmma.cuh are the same for Hopper's own instructions.)
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace pyramoe::gpu {

// Sixteen bytes from global to shared memory; those addresses are multiples of 16. They are there
// when the group that commit_copies() closes next has been waited for, by the thread that asked.
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
// The same, or sixteen zeros where `real` is not set; `global` must be a good address all the same.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool real) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
               "r"(real ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until at most kPending groups of this thread are still on their way.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8 x 8 matrices of bf16: lane l names row l % 8 of matrix l / 8, and gets of each matrix two
// neighbours of row l / 4; of the transposed matrices with kTurned.
template <bool kTurned = false>
__device__ __forceinline__ void load_matrices(uint32_t (&x)[4], const __nv_bfloat16* at) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(at));
  if constexpr (kTurned) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(address)
                 : "memory");
  }
}

// c (16, 8) += a (16, 16) b (16, 8). c[0, 1] are columns 2 (lane % 4) + {0, 1} of row lane / 4,
// c[2, 3] of row + 8; a and b are what load_matrices gives.
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace pyramoe::gpu
