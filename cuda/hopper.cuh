// Hopper's own instructions, one thin function each: barriers that count bytes, the bulk tensor
// copy engine (TMA), descriptors for wgmma (wgmma.cuh), fences, register hand-over.
//
// Include only from files compiled for sm_90a, and keep kernels inside
// #if defined(__CUDA_ARCH_FEAT_SM90_ALL). Addresses in shared memory are 32-bit (shared_address).
// Proven on an H200 against CPU products: descriptors of both majors for A and B, A in registers
// (N = 64 to 256), swizzled loads of 2 and 3 axes, alone and into both blocks of a cluster.
// Source: PTX ISA 8.x.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <array>

#include "cuda/launch.cuh"
#include "cuda/wgmma.cuh"

namespace pyramoe::gpu::hopper {

// ---- warps and register budgets

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
// True in one lane of the (converged) warp, always the same one.
__device__ __forceinline__ bool elect_one() {
  uint32_t chosen;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}\n"
               : "=r"(chosen));
  return chosen != 0;
}
// A warpgroup gives registers back or takes more (multiples of 8, 24 to 240; kernels need
// __launch_bounds__(threads, 1)). All its warps call this. The pool is what the launch got: with
// three warpgroups 3 x 168 = 504 a thread column, and who asks for more than that waits forever.
template <int N>
__device__ __forceinline__ void release_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
// Barrier `id` (1 to 15; 0 is __syncthreads) among `threads` threads, a multiple of 32. `arrive`
// does not wait.
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- mbarrier: completes a phase when `arrivals` have come and all announced bytes have landed

__device__ __forceinline__ void barrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}
// After the inits and before a __syncthreads(): makes them visible to the copy engine.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
// One arrival that also announces `bytes` from the copy engine.
__device__ __forceinline__ void barrier_expect(uint64_t* barrier, int bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
// Waits for the phase of this parity: 0 is the first phase, 1 the second, 0 the third. (So on a
// fresh barrier a wait for parity 1 returns at once.)
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "PM_WAIT:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra PM_DONE;\n"
      "bra PM_WAIT;\n"
      "PM_DONE:\n}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// A place in a ring of S stages and the parity of its barriers.
template <int S>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void next() {
    if (++stage == S) stage = 0, parity ^= 1;
  }
};

// ---- TMA

// Ordinary shared-memory writes of this thread become visible to wgmma and TMA. Call it in each
// writing thread, then a barrier.
__device__ __forceinline__ void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// ---- clusters of two blocks (kernels with __cluster_dims__(2, 1, 1)): they run at the same time
// on neighbouring multiprocessors and reach each other's shared memory

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// Waits for all threads of both blocks (each warp together): after barrier inits and their fence,
// and before a block leaves that the other one may still reach. Orders no ordinary memory: a
// release here would wait for all stores under way.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::
                   : "memory");
}
// Arrives at the same barrier of block `rank` of the cluster. (Released to this block's scope: with
// .cluster the compiler puts a fence of the whole GPU's memory before each.)
__device__ __forceinline__ void barrier_arrive(uint64_t* barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(shared_address(barrier)),
      "r"(rank)
      : "memory");
}
// One copy into both blocks, at the same place, counted on the same barrier of each.
__device__ __forceinline__ void tma_load_both(void* to, const CUtensorMap* map, uint64_t* barrier,
                                              int x, int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "h"(static_cast<uint16_t>(3))
      : "memory");
}
__device__ __forceinline__ void tma_load_both(void* to, const CUtensorMap* map, uint64_t* barrier,
                                              int x, int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "h"(static_cast<uint16_t>(3))
      : "memory");
}

// Copies the map's box at coordinates (x fastest) to shared memory; the bytes of the whole box are
// counted on the barrier, those outside the tensor arrive as zeros. One thread calls it.
__device__ __forceinline__ void tma_load(void* to, const CUtensorMap* map, uint64_t* barrier, int x,
                                         int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y)
      : "memory");
}
__device__ __forceinline__ void tma_load(void* to, const CUtensorMap* map, uint64_t* barrier, int x,
                                         int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
}
__device__ __forceinline__ void tma_load(void* to, const CUtensorMap* map, uint64_t* barrier, int x,
                                         int y, int z, int w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}
// Shared memory to the box; what lies outside the tensor is not written. Commit, then wait before
// the shared memory is written again (wait_read) or the result is relied on (kernel end suffices).
__device__ __forceinline__ void tma_store(const CUtensorMap* map, const void* from, int x, int y,
                                          int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
      "r"(shared_address(from)), "r"(x), "r"(y), "r"(z)
      : "memory");
}
__device__ __forceinline__ void tma_store(const CUtensorMap* map, const void* from, int x, int y,
                                          int z, int w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(
          map),
      "r"(shared_address(from)), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}
// Adds to what the box holds, in the tensor's type, instead of replacing it: one addition an
// element.
__device__ __forceinline__ void tma_add(const CUtensorMap* map, const void* from, int x, int y,
                                        int z) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.bulk_group [%0, {%2, %3, %4}], "
      "[%1];" ::"l"(map),
      "r"(shared_address(from)), "r"(x), "r"(y), "r"(z)
      : "memory");
}
__device__ __forceinline__ void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
template <int N>
__device__ __forceinline__ void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

// ---- shared-memory tiles with the 128-byte swizzle
//
// A tile is a run of lines of 128 bytes (64 bf16) on a 1024-byte border; what belongs at 16-byte
// chunk c of line r lies at chunk c ^ (r % 8). TMA writes this with kSwizzle128, wgmma reads it.
//   K-major operand:  line = row (of A) or column (of B), the line holds 64 k.
//   MN-major operand: line = k, the line holds 64 rows or columns; more of them lie `block` bytes
//                     on (the size of the box {64, lines of k}).
__device__ __forceinline__ int swizzled_offset(int line, int byte) {
  return line * 128 + (byte ^ ((line & 7) << 4));
}
// The descriptor of an operand at `address`. Step 16 k on by adding 32 bytes to the address of a
// K-major one, 16 lines (2048 bytes) to that of an MN-major one; 64 rows on by 64 lines or `block`.
template <Major M>
__device__ __forceinline__ uint64_t tile_descriptor(uint32_t address, int block = 0) {
  const uint64_t leading = M == Major::k ? 1 : static_cast<uint64_t>(block >> 4);
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | leading << 16 |
         static_cast<uint64_t>(1024 >> 4) << 32 | uint64_t{1} << 62;
}

// Four 8 x 8 matrices of bf16 pairs to shared memory: lane l gives the address of 16-byte row l % 8
// of matrix l / 8; x[i] is this lane's pair of matrix i: row l / 4, columns 2 (l % 4) + {0, 1}.
__device__ __forceinline__ void store_matrices(uint32_t address, uint32_t x0, uint32_t x1,
                                               uint32_t x2, uint32_t x3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(x0), "r"(x1), "r"(x2), "r"(x3)
               : "memory");
}
// The mirror image: x[i] is this lane's pair of matrix i.
__device__ __forceinline__ void load_matrices(uint32_t address, uint32_t (&x)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address)
               : "memory");
}
// Two bf16 in a register, the first one in the lower half.
__device__ __forceinline__ float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bf16(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// ---- host: tensor maps

enum class Swizzle { none, bytes128 };
enum class Element { bf16, f32 };
// A tensor at `data` (16-byte aligned) with `sizes` elements, fastest axis first; `strides` are the
// bytes between neighbours along axes 1, 2, ... (multiples of 16), `box` the part one copy moves
// (its first axis at most 128 bytes with the swizzle). Pass the result to a kernel by value, as
// `const __grid_constant__ CUtensorMap`.
CUtensorMap tensor_map(const void* data, int rank, const int64_t* sizes, const int64_t* strides,
                       const int* box, Swizzle swizzle = Swizzle::bytes128,
                       Element element = Element::bf16);
template <size_t N>
CUtensorMap tensor_map(const void* data, const std::array<int64_t, N>& sizes,
                       const std::array<int64_t, N - 1>& strides, const std::array<int, N>& box,
                       Swizzle swizzle = Swizzle::bytes128, Element element = Element::bf16) {
  return tensor_map(data, static_cast<int>(N), sizes.data(), strides.data(), box.data(), swizzle,
                    element);
}

}  // namespace pyramoe::gpu::hopper
