// CUDA twins that decide which choices keep a place and which segment row each one gets.
//
// Both are one stable counting sort: a warp counts a chunk of choices, a scan turns the counts of
// all chunks into places, and the warp walks its chunk again and hands the places out. Inside a
// warp equal experts are found by match_any, so a rank is a population count: no atomics, no order
// that depends on timing. Three launches, nothing read by the host.
#include "core/kernels/moe.h"
#include "cuda/moe_sort.cuh"
#include "cuda/vec.cuh"

namespace pyramoe::kernels::cuda {
namespace {

using gpu::kWarp;
using gpu::to_float;
using gpu::visit_floating;

constexpr int kThreads = 256;
constexpr int kSelectThreads = 128;

// What the places are for.
struct ToRows {  // the segment row of every kept choice
  int32_t* row;
  __device__ void place(int64_t choice, int64_t, int32_t, int32_t rank) const {
    row[choice] = rank;
  }
  __device__ void none(int64_t choice) const { row[choice] = -1; }
};
struct ToPlaces {  // the segment row of the first `capacity` of an expert and group
  int32_t* row;
  const int32_t *base, *offsets;  // (G, E), (E + 1)
  int64_t experts, capacity;
  __device__ void place(int64_t choice, int64_t group, int32_t e, int32_t rank) const {
    row[choice] = rank < capacity ? offsets[e] + base[group * experts + e] + rank : -1;
  }
  __device__ void none(int64_t choice) const { row[choice] = -1; }
};
struct ToKept {  // the first `capacity` keep their place
  uint8_t* kept;
  int64_t capacity;
  __device__ void place(int64_t choice, int64_t, int32_t, int32_t rank) const {
    kept[choice] = rank < capacity;
  }
  __device__ void none(int64_t choice) const { kept[choice] = 0; }
};
struct ToList {  // a group's choices sorted by expert
  int32_t* list;
  uint8_t* kept;
  int64_t group_items;
  __device__ void place(int64_t choice, int64_t group, int32_t, int32_t rank) const {
    list[group * group_items + rank] = static_cast<int32_t>(choice);
  }
  __device__ void none(int64_t choice) const { kept[choice] = 0; }
};

// ---- the largest `capacity` of an expert's choices

template <class T>
struct ScoreKey {
  const T* score;
  // Unsigned numbers in the order of the floats; a NaN comes last, both zeros are one.
  __device__ uint32_t operator()(int64_t choice, int64_t) const {
    float s = to_float(score[choice]);
    if (s != s) s = -INFINITY;
    const uint32_t bits = __float_as_uint(s == 0 ? 0.0f : s);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  }
};
struct RandomKey {
  RngKey key;
  int64_t first_row, k, experts;
  __device__ uint32_t operator()(int64_t choice, int64_t expert) const {
    const int64_t token = key.rows_before() + first_row + choice / k;
    return random_u32(key.at_this_step(), static_cast<uint64_t>(token * experts + expert));
  }
};

// Warp 0: the bin, walking down from 255, in which the count reaches `need`; need becomes what is
// still to take from that bin.
__device__ void find_bin(const int32_t* bins, int32_t* bin, int32_t* need) {
  const int lane = static_cast<int>(threadIdx.x);
  int32_t mine = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) mine += bins[255 - lane * 8 - i];
  int32_t through = mine;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const int32_t left = __shfl_up_sync(0xffffffffu, through, step);
    if (lane >= step) through += left;
  }
  const int32_t wanted = *need;
  __syncwarp();
  int32_t above = through - mine;
  if (above >= wanted || through < wanted) return;
  for (int i = 0; i < 8; ++i) {
    const int b = 255 - lane * 8 - i;
    if (above + bins[b] >= wanted) {
      *bin = b;
      *need = wanted - above;
      return;
    }
    above += bins[b];
  }
}

// A block per (group, expert): a radix select finds the smallest key that stays, byte by byte from
// the top; of the choices that share it the first ones stay.
template <class Key>
__global__ void __launch_bounds__(kSelectThreads)
    select_kernel(const int32_t* __restrict__ list, const int32_t* __restrict__ offsets,
                  int64_t group_items, int64_t experts, int64_t capacity, Key key,
                  uint8_t* __restrict__ kept) {
  __shared__ int32_t bins[256], bin, need, warp_ties[kSelectThreads / kWarp];
  const int64_t g = blockIdx.x / experts, e = blockIdx.x - g * experts;
  const int32_t* ends = offsets + g * (experts + 1) + e;
  const int32_t* mine = list + g * group_items + ends[0];
  const int64_t n = ends[1] - ends[0];
  const int tid = static_cast<int>(threadIdx.x);
  if (n <= capacity) {
    for (int64_t i = tid; i < n; i += kSelectThreads) kept[mine[i]] = 1;
    return;
  }
  if (tid == 0) need = static_cast<int32_t>(capacity);
  uint32_t cut = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = tid; i < 256; i += kSelectThreads) bins[i] = 0;
    __syncthreads();
    for (int64_t i = tid; i < n; i += kSelectThreads) {
      const uint32_t u = key(mine[i], e);
      if (static_cast<uint64_t>(u ^ cut) >> (shift + 8) == 0) atomicAdd(&bins[u >> shift & 255], 1);
    }
    __syncthreads();
    if (tid < kWarp) find_bin(bins, &bin, &need);
    __syncthreads();
    cut |= static_cast<uint32_t>(bin) << shift;
  }
  int32_t seen = 0;
  for (int64_t base = 0; base < n; base += kSelectThreads) {
    const bool here = base + tid < n;
    const uint32_t u = here ? key(mine[base + tid], e) : 0;
    const bool tie = here && u == cut;
    const uint32_t ties = __ballot_sync(0xffffffffu, tie);
    if (tid % kWarp == 0) warp_ties[tid / kWarp] = __popc(ties);
    __syncthreads();
    int32_t before = seen + __popc(ties & ((1u << (tid % kWarp)) - 1));
    for (int w = 0; w < kSelectThreads / kWarp; ++w) {
      if (w < tid / kWarp) before += warp_ties[w];
      seen += warp_ties[w];
    }
    if (here) kept[mine[base + tid]] = u > cut || (tie && before < need);
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads)
    padded_slots_kernel(const int32_t* __restrict__ expert, const int32_t* __restrict__ row,
                        const int32_t* __restrict__ offsets, int64_t width, int64_t count,
                        int32_t* __restrict__ slot) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (i >= count) return;
  const int64_t place = row[i] < 0 ? -1 : row[i] - offsets[expert[i]];
  slot[i] = place < 0 || place >= width ? -1 : static_cast<int32_t>(expert[i] * width + place);
}

}  // namespace

void keep_within_capacity(const Tensor& expert, const Tensor& score, int64_t experts,
                          int64_t group_rows, int64_t capacity, DropBy order, const RngKey& key,
                          int64_t first_row, Tensor& kept) {
  const int64_t rows = expert.dim(0), k = expert.dim(1);
  PM_CHECK(capacity >= 1, "keep_within_capacity: capacity ", capacity, ", expected at least 1");
  PM_CHECK(group_rows >= 1 && rows % group_rows == 0, "keep_within_capacity: groups of ",
           group_rows, " rows do not divide ", rows, " rows");
  PM_CHECK(rows * k < int64_t{1} << 31, "keep_within_capacity: ", rows * k,
           " choices do not fit in i32");
  if (rows == 0) return;
  const int32_t* pe = gpu::data<int32_t>(expert);
  uint8_t* pk = gpu::data<uint8_t>(kept);
  if (order == DropBy::position) {
    const gpu::Sort sort = gpu::make_sort(rows, k, experts, group_rows, true);
    const gpu::Scratch table(sort.table_bytes());
    gpu::count_choices(sort, pe, nullptr, table.data<int32_t>(), nullptr);
    gpu::scan_counts(sort, table.data<int32_t>(), nullptr, nullptr, nullptr);
    gpu::place_choices(sort, pe, nullptr, table.data<int32_t>(), nullptr, ToKept{pk, capacity});
    return;
  }
  const gpu::Sort sort = gpu::make_sort(rows, k, experts, group_rows, false);
  const gpu::Scratch table(sort.table_bytes()), offsets(sort.groups * (experts + 1) * 4),
      list(rows * k * 4);
  gpu::count_choices(sort, pe, nullptr, table.data<int32_t>(), nullptr);
  gpu::scan_counts(sort, table.data<int32_t>(), nullptr, offsets.data<int32_t>(), nullptr);
  gpu::place_choices(sort, pe, nullptr, table.data<int32_t>(), offsets.data<int32_t>(),
                     ToList{list.data<int32_t>(), pk, sort.group_items});
  const auto select = [&](const auto& priority) {
    select_kernel<<<gpu::grid(sort.groups * experts, 1), kSelectThreads, 0, gpu::stream()>>>(
        list.data<int32_t>(), offsets.data<int32_t>(), sort.group_items, experts, capacity,
        priority, pk);
    PM_LAUNCHED();
  };
  if (order == DropBy::random) {
    select(RandomKey{key, first_row, k, experts});
    return;
  }
  visit_floating(score.dtype(), "keep_within_capacity",
                 [&]<class T>() { select(ScoreKey<T>{gpu::data<T>(score)}); });
}

void assign_rows(const Tensor& expert, const Tensor& kept, Tensor& row, Tensor& offsets,
                 Tensor& load) {
  const int64_t rows = expert.dim(0), k = expert.dim(1), experts = load.dim(0);
  PM_CHECK(rows * k < int64_t{1} << 31, "assign_rows: ", rows * k, " choices do not fit in i32");
  PM_CHECK(offsets.numel() == experts + 1, "assign_rows: ", offsets.numel(), " offsets for ",
           experts, " experts");
  const int32_t* pe = gpu::data<int32_t>(expert);
  const uint8_t* pk = gpu::data<uint8_t>(kept);
  int32_t* po = gpu::data<int32_t>(offsets);
  const gpu::Sort sort = gpu::make_sort(rows, k, experts, rows, false);
  const gpu::Scratch table(sort.table_bytes()), with_dropped(pk ? sort.table_bytes() : 0);
  int32_t* all = pk ? with_dropped.data<int32_t>() : nullptr;
  gpu::count_choices(sort, pe, pk, table.data<int32_t>(), all);
  gpu::scan_counts(sort, table.data<int32_t>(), all, po, gpu::data<int32_t>(load));
  gpu::place_choices(sort, pe, pk, table.data<int32_t>(), po, ToRows{gpu::data<int32_t>(row)});
}

void assign_rows_by_position(const Tensor& expert, int64_t group_rows, int64_t capacity,
                             Tensor& row, Tensor& offsets, Tensor& load) {
  const int64_t rows = expert.dim(0), experts = load.dim(0);
  PM_CHECK(expert.dim(1) == 1, "assign_rows_by_position: ", expert.dim(1), " choices a token, ",
           "expected 1");
  PM_CHECK(capacity >= 1, "assign_rows_by_position: capacity ", capacity, ", expected at least 1");
  PM_CHECK(group_rows >= 1 && rows % group_rows == 0, "assign_rows_by_position: groups of ",
           group_rows, " rows do not divide ", rows, " rows");
  PM_CHECK(rows < int64_t{1} << 31, "assign_rows_by_position: ", rows, " rows do not fit in i32");
  PM_CHECK(offsets.numel() == experts + 1, "assign_rows_by_position: ", offsets.numel(),
           " offsets for ", experts, " experts");
  const int32_t* pe = gpu::data<int32_t>(expert);
  int32_t* po = gpu::data<int32_t>(offsets);
  const gpu::Sort sort = gpu::make_sort(rows, 1, experts, group_rows, false);
  const gpu::Scratch table(sort.table_bytes()), base(sort.groups * experts * 4);
  gpu::count_choices(sort, pe, nullptr, table.data<int32_t>(), nullptr);
  gpu::scan_places(sort, capacity, table.data<int32_t>(), base.data<int32_t>(), po,
                   gpu::data<int32_t>(load));
  gpu::place_choices(
      sort, pe, nullptr, table.data<int32_t>(), nullptr,
      ToPlaces{gpu::data<int32_t>(row), base.data<int32_t>(), po, experts, capacity});
}

void padded_slots(const Tensor& expert, const Tensor& row, const Tensor& offsets, int64_t width,
                  Tensor& slot) {
  if (row.numel() == 0) return;
  padded_slots_kernel<<<gpu::grid(row.numel(), kThreads), kThreads, 0, gpu::stream()>>>(
      gpu::data<int32_t>(expert), gpu::data<int32_t>(row), gpu::data<int32_t>(offsets), width,
      row.numel(), gpu::data<int32_t>(slot));
  PM_LAUNCHED();
}

}  // namespace pyramoe::kernels::cuda
