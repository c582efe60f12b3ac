// The passes of the stable sort; see sort.cuh.
#include "cuda/sort.cuh"

#include <utility>

namespace pyramoe::gpu {
namespace {

constexpr int kTile = 1024, kDigits = 256, kWarps = kTile / 32;

struct Keys {
  const int32_t *key, *order;  // order null: the first pass, 0, 1, 2, ...
  int64_t count;
  int32_t limit;
  int shift;

  // Of element i; elements past the end take part with no digit.
  __device__ int32_t at(int64_t i) const {
    const int32_t k = key[i];
    return order == nullptr && (k < 0 || k >= limit) ? limit : k;
  }
  __device__ int digit(int32_t k) const { return (k >> shift) & (kDigits - 1); }
};

// counts[digit * tiles + tile]
__global__ void __launch_bounds__(kTile) count_kernel(Keys keys, int tiles, int32_t* counts) {
  __shared__ int32_t count[kDigits];
  if (threadIdx.x < kDigits) count[threadIdx.x] = 0;
  __syncthreads();
  const int64_t i = int64_t{blockIdx.x} * kTile + threadIdx.x;
  if (i < keys.count) atomicAdd(&count[keys.digit(keys.at(i))], 1);  // a count: order is nothing
  __syncthreads();
  if (threadIdx.x < kDigits) {
    counts[int64_t{threadIdx.x} * tiles + blockIdx.x] = count[threadIdx.x];
  }
}

// Sums before each entry, in place, by one block: each thread a run of entries.
__global__ void __launch_bounds__(1024) scan_kernel(int64_t n, int32_t* counts) {
  __shared__ int32_t warp_total[32];
  const int64_t run = (n + 1023) / 1024;
  const int64_t begin = threadIdx.x * run, end = begin + run < n ? begin + run : n;
  int32_t mine = 0;
  for (int64_t i = begin; i < end; ++i) mine += counts[i];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int32_t up_to = mine;  // this thread's and those before it in the warp
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int32_t other = __shfl_up_sync(0xffffffffu, up_to, step);
    if (lane >= step) up_to += other;
  }
  if (lane == 31) warp_total[warp] = up_to;
  __syncthreads();
  int32_t before = up_to - mine;
  for (int w = 0; w < warp; ++w) before += warp_total[w];
  for (int64_t i = begin; i < end; ++i) {
    const int32_t here = counts[i];
    counts[i] = before;
    before += here;
  }
}

__global__ void __launch_bounds__(kTile)
    move_kernel(Keys keys, int tiles, const int32_t* first, int32_t* key, int32_t* order) {
  __shared__ uint16_t in_warp[kWarps][kDigits];  // then: in the warps before
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int d = lane; d < kDigits; d += 32) in_warp[warp][d] = 0;
  __syncwarp();
  const int64_t i = int64_t{blockIdx.x} * kTile + threadIdx.x;
  const bool inside = i < keys.count;
  const int32_t k = inside ? keys.at(i) : 0;
  const int digit = inside ? keys.digit(k) : kDigits;  // past the end: a digit of its own
  const unsigned same = __match_any_sync(0xffffffffu, digit);
  const int before = __popc(same & ((1u << lane) - 1));
  if (inside && before == 0) in_warp[warp][digit] = static_cast<uint16_t>(__popc(same));
  __syncthreads();
  if (threadIdx.x < kDigits) {
    uint16_t sum = 0;
    for (int w = 0; w < kWarps; ++w) {
      const uint16_t here = in_warp[w][threadIdx.x];
      in_warp[w][threadIdx.x] = sum;
      sum = static_cast<uint16_t>(sum + here);
    }
  }
  __syncthreads();
  if (!inside) return;
  const int32_t place = first[int64_t{digit} * tiles + blockIdx.x] + in_warp[warp][digit] + before;
  key[place] = k;
  order[place] = keys.order ? keys.order[i] : static_cast<int32_t>(i);
}

int64_t tiles_of(int64_t count) { return ceil_div(count, kTile); }

}  // namespace

// Two buffers of keys and orders that the passes go between, and the digit counts.
SortedIds::SortedIds(const int32_t* id, int64_t count, int64_t limit)
    : memory_(static_cast<int64_t>(sizeof(int32_t)) * (4 * count + kDigits * tiles_of(count))) {
  PM_CHECK(count < (int64_t{1} << 31) && limit < (int64_t{1} << 31), "sort: ", count,
           " keys below ", limit, ": more than 2^31");
  if (count == 0) return;
  const auto tiles = static_cast<int>(tiles_of(count));
  auto* memory = memory_.data<int32_t>();
  int32_t* counts = memory + 4 * count;
  key_ = memory, order_ = memory + count;
  int32_t *next_key = memory + 2 * count, *next_order = memory + 3 * count;
  Keys from{id, nullptr, count, static_cast<int32_t>(limit), 0};
  for (; from.shift == 0 || (limit >> from.shift) > 0; from.shift += 8) {
    count_kernel<<<static_cast<unsigned>(tiles), kTile, 0, stream()>>>(from, tiles, counts);
    PM_LAUNCHED();
    scan_kernel<<<1, 1024, 0, stream()>>>(int64_t{kDigits} * tiles, counts);
    PM_LAUNCHED();
    move_kernel<<<static_cast<unsigned>(tiles), kTile, 0, stream()>>>(from, tiles, counts, next_key,
                                                                      next_order);
    PM_LAUNCHED();
    from.key = next_key, from.order = next_order;
    std::swap(key_, next_key);
    std::swap(order_, next_order);
  }
}

}  // namespace pyramoe::gpu
