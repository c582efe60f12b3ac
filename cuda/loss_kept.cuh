// Rows kept in shared memory between the two looks that a loss takes at them.
//
// A thread owns every kThreads-th pack of a row: it alone copies it in (cp.async, 16 bytes), reads
// it as it arrives, and once more when the row's sums are known; then it asks for the next row's
// pack in the same place. So no barrier guards the data, only the sums over the block take one.
#pragma once

#include "cuda/loss.cuh"
#include "cuda/mma.cuh"

namespace pyramoe::gpu {

inline constexpr int kRowParts = 4;        // a row is waited for in quarters
inline constexpr int kRowReserved = 2048;  // of a block's shared memory, for sums and the system

// Shared memory of the current device: most for a block, and of a multiprocessor.
inline int shared_bytes(cudaDeviceAttr which) {
  int device = 0, bytes = 0;
  PM_CUDA(cudaGetDevice(&device));
  PM_CUDA(cudaDeviceGetAttribute(&bytes, which, device));
  return bytes;
}
inline int most_row_bytes() {
  return shared_bytes(cudaDevAttrMaxSharedMemoryPerBlockOptin) - kRowReserved;
}
// Blocks that keep `bytes` and share a multiprocessor.
inline int64_t blocks_together(int64_t bytes) {
  const int64_t all = shared_bytes(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  return std::clamp<int64_t>(all / (bytes + kRowReserved), 1, 4);
}

// f(pack) for this thread's packs of one part of a row.
template <int kThreads, class F>
__device__ __forceinline__ void each_kept(int part, int packs, const F& f) {
  const int laps = (packs + kThreads - 1) / kThreads;
  const int in_part = (laps + kRowParts - 1) / kRowParts;
  const int begin = part * in_part * kThreads + static_cast<int>(threadIdx.x);
  const int end = min((part + 1) * in_part * kThreads, packs);
#pragma unroll 2
  for (int pack = begin; pack < end; pack += kThreads) f(pack);
}
// The same for the whole row, part by part as the copies arrive: the oldest kRowParts groups.
template <int kThreads, class F>
__device__ __forceinline__ void each_arriving(int packs, const F& f) {
  wait_copies<3>();
  each_kept<kThreads>(0, packs, f);
  wait_copies<2>();
  each_kept<kThreads>(1, packs, f);
  wait_copies<1>();
  each_kept<kThreads>(2, packs, f);
  wait_copies<0>();
  each_kept<kThreads>(3, packs, f);
}

}  // namespace pyramoe::gpu
