// The matrix product's outer loops: cut C into tiles, pack, run register tiles, finish.
//
// A task is one tile of one product's C. It walks k in blocks: packs its block of A, then group
// after group of columns of B into this thread's own buffers (both fit the second-level cache), and
// runs register tiles over them. Packing twice what another task also packs costs about a percent
// and saves every barrier. How C is cut depends on the thread count; the sums do not see it.
#include "core/cpu/gemm.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "core/cpu/gemm_buffer.h"
#include "core/cpu/gemm_kernels.h"
#include "core/cpu/simd.h"
#include "core/parallel.h"

namespace pyramoe::gemm {
namespace {

constexpr int64_t kTileM = 252;        // rows of C in a task, at most
constexpr int64_t kTileN = 1024;       // columns of C in a task, at most
constexpr int64_t kStagedTileN = 512;  // the same where C is narrower than the sums
constexpr int64_t kBlockBytes = 1536;  // of k, for one row or column, packed at a time
constexpr int64_t kGroupBytes = 512;   // of columns packed at a time
constexpr int64_t kSlack = 16;         // elements a packed row may run over (gemm_kernels.h)
constexpr int64_t kTasksPerThread = 2;

thread_local Buffer thread_buffer;

template <class T>
constexpr int64_t kLine = static_cast<int64_t>(64 / sizeof(T));  // elements in a cache line

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T, class S>
void pack(const Kernels<T>& table, bool along, const S* x, int64_t ld, int64_t width, int64_t k,
          T* out, int64_t stride) {
  if constexpr (std::is_same_v<S, BFloat16>) {
    (along ? table.pack_along_bf16 : table.pack_across_bf16)(x, ld, width, k, out, stride);
  } else {
    (along ? table.pack_along : table.pack_across)(x, ld, width, k, out, stride);
  }
}

// How one product is cut.
struct Cut {
  bool slim = false;
  int64_t tile_m = 1, tile_n = 1, rows = 0, cols = 0;  // size of a tile; tiles down and across
  int64_t first_task = 0;
};

template <class T, class TC>
Cut cut(const Product<T, TC>& p, const Kernels<Acc<T>>& table, double wanted_tasks) {
  Cut c;
  if (p.m <= 0 || p.n <= 0) return c;
  const int64_t step = table.tile_cols;
  c.slim = p.m <= kMaxSlimRows;
  const bool staged = !std::is_same_v<TC, Acc<T>>;
  int64_t down = ceil_div(p.m, kTileM), across = ceil_div(p.n, staged ? kStagedTileN : kTileN);
  const auto tasks = [&] { return static_cast<double>(down * across); };
  const int64_t narrow = c.slim && p.transpose_b ? step : 4 * step;
  while (tasks() < wanted_tasks && p.n >= 2 * across * narrow) ++across;
  while (tasks() < wanted_tasks && p.m >= 2 * down * 4 * table.tile_rows) ++down;
  while (tasks() < wanted_tasks && p.n >= 2 * across * step) ++across;
  c.tile_m = ceil_div(p.m, down);
  c.tile_n = ceil_div(ceil_div(p.n, across), step) * step;
  c.rows = ceil_div(p.m, c.tile_m);
  c.cols = ceil_div(p.n, c.tile_n);
  return c;
}

// bias, gelu and the rounding to C's type, for a block whose sums are complete.
template <class T, class TC, class A>
void finish(const Product<T, TC>& p, int64_t i0, int64_t rows, int64_t j0, int64_t cols,
            const A* sums, int64_t ld) {
  using V = simd::Vec<A>;
  for (int64_t i = 0; i < rows; ++i) {
    TC* c = p.c + (i0 + i) * p.ldc + j0;
    TC* gelu = p.gelu ? p.gelu + (i0 + i) * p.ldc + j0 : nullptr;
    for (int64_t j = 0; j < cols; j += V::lanes) {
      const int64_t n = cols - j;
      V x = V::load(sums + i * ld + j, n);
      if (p.bias) x = x + V::load(p.bias + j0 + j, n);
      x.store(c + j, n);
      if (gelu) simd::gelu(V::load(c + j, n)).store(gelu + j, n);  // of c as it was rounded
    }
  }
}

// Where a task keeps its sums: C itself, or a buffer where C is narrower.
template <class A>
struct Sums {
  A* data;
  int64_t ld;
  bool add;  // the chain goes on from what is there
};

template <class T, class TC, class A>
Sums<A> begin_sums(const Product<T, TC>& p, int64_t i0, int64_t rows, int64_t j0, int64_t cols,
                   A* stage) {
  if constexpr (std::is_same_v<TC, A>) {
    return {p.c + i0 * p.ldc + j0, p.ldc, p.accumulate};
  } else {
    if (p.accumulate) {
      using V = simd::Vec<A>;
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < cols; j += V::lanes) {
          V::load(p.c + (i0 + i) * p.ldc + j0 + j, cols - j).store(stage + i * cols + j, cols - j);
        }
      }
    }
    return {stage, cols, p.accumulate};
  }
}

template <class T, class TC>
bool needs_finish(const Product<T, TC>& p) {
  return !std::is_same_v<TC, Acc<T>> || p.bias != nullptr || p.gelu != nullptr;
}

// A tile of a product of few rows: B is read once, where it lies.
template <class T, class TC>
void run_slim(const Product<T, TC>& p, const Kernels<Acc<T>>& table, int64_t j0, int64_t cols) {
  using A = Acc<T>;
  A* stage = thread_buffer.get<A>(p.m * cols + p.k * p.m + kSlack);
  A* packed = stage + p.m * cols;
  const A* a = packed;
  if constexpr (std::is_same_v<T, A>) {
    if (p.m == 1 && !p.transpose_a) a = p.a;
  }
  if (a == packed) pack<A>(table, !p.transpose_a, p.a, p.lda, p.m, p.k, packed, p.m);
  const Sums<A> sums = begin_sums(p, 0, p.m, j0, cols, stage);
  const T* b = p.transpose_b ? p.b + j0 * p.ldb : p.b + j0;
  const auto m = static_cast<size_t>(p.m);
  if constexpr (std::is_same_v<T, A>) {
    (p.transpose_b ? table.slim_along : table.slim_across)[m](p.k, a, b, p.ldb, sums.data, sums.ld,
                                                              cols, sums.add);
  } else {
    (p.transpose_b ? table.slim_along_bf16 : table.slim_across_bf16)[m](p.k, a, b, p.ldb, sums.data,
                                                                        sums.ld, cols, sums.add);
  }
  if (needs_finish(p)) finish(p, 0, p.m, j0, cols, sums.data, sums.ld);
}

// Rows of a tile in near-equal panels of at most tile_rows, each packed (k, rows).
struct Panels {
  int64_t rows, count, stride;
  Panels(int64_t all_rows, int64_t tile_rows, int64_t k)
      : rows(all_rows),
        count(ceil_div(all_rows, tile_rows)),
        stride(ceil_div(all_rows, count) * k + kSlack) {}
  int64_t begin(int64_t i) const { return i * rows / count; }
  int64_t size(int64_t i) const { return begin(i + 1) - begin(i); }
};

template <class T, class TC>
void pack_a(const Product<T, TC>& p, const Kernels<Acc<T>>& table, const Panels& panels, int64_t i0,
            int64_t k0, int64_t depth, Acc<T>* out) {
  // Where A is read across, a strip of k at a time for all panels, so that its cache lines, which
  // panels share, are still near.
  const int64_t strip = p.transpose_a ? 32 : depth;
  for (int64_t q = 0; q < depth; q += strip) {
    const int64_t k = std::min(strip, depth - q);
    if (p.transpose_a && q + k < depth) {
      for (int64_t r = 0; r < strip; ++r) {
        const T* next = p.a + (k0 + q + k + r) * p.lda + i0;
        for (int64_t i = 0; i < panels.rows; i += kLine<T>) __builtin_prefetch(next + i, 0, 2);
      }
    }
    for (int64_t i = 0; i < panels.count; ++i) {
      const int64_t row = i0 + panels.begin(i), size = panels.size(i);
      const T* x = p.transpose_a ? p.a + (k0 + q) * p.lda + row : p.a + row * p.lda + k0 + q;
      pack<Acc<T>>(table, !p.transpose_a, x, p.lda, size, k, out + i * panels.stride + q * size,
                   size);
    }
  }
}

// A part of a row-major matrix, as lines to fetch.
template <class T>
Ahead lines(const T* x, int64_t ld, int64_t rows, int64_t cols) {
  return {reinterpret_cast<const char*>(x), ld * static_cast<int64_t>(sizeof(T)), rows, rows,
          ceil_div(cols, kLine<T>)};
}
template <class T, class TC>
Ahead lines_of_a(const Product<T, TC>& p, int64_t i, int64_t rows, int64_t k0, int64_t k) {
  return p.transpose_a ? lines(p.a + k0 * p.lda + i, p.lda, k, rows)
                       : lines(p.a + i * p.lda + k0, p.lda, rows, k);
}
template <class T, class TC>
Ahead lines_of_b(const Product<T, TC>& p, int64_t k0, int64_t k, int64_t j, int64_t cols) {
  return p.transpose_b ? lines(p.b + j * p.ldb + k0, p.ldb, cols, k)
                       : lines(p.b + k0 * p.ldb + j, p.ldb, k, cols);
}

template <class T, class TC>
void run_tile(const Product<T, TC>& p, const Kernels<Acc<T>>& table, int64_t i0, int64_t rows,
              int64_t j0, int64_t cols) {
  using A = Acc<T>;
  constexpr int64_t max_depth = kBlockBytes / static_cast<int64_t>(sizeof(A));
  const int64_t blocks = std::max<int64_t>(1, ceil_div(p.k, max_depth));
  const int64_t depth = ceil_div(p.k, blocks), step = table.tile_cols;
  const int64_t group = std::max(step, kGroupBytes / static_cast<int64_t>(sizeof(A)));
  const Panels panels(rows, table.tile_rows, depth);
  const int64_t b_size = ceil_div(group * depth, 16) * 16, a_size = panels.count * panels.stride;
  A* b_packed = thread_buffer.get<A>(b_size + a_size + kSlack + rows * cols);
  A* a_packed = b_packed + b_size;
  Sums<A> sums = begin_sums(p, i0, rows, j0, cols, a_packed + a_size + kSlack);
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t k0 = block * depth, k = std::min(depth, p.k - k0);
    pack_a(p, table, panels, i0, k0, k, a_packed);
    for (int64_t j = 0; j < cols; j += group) {
      const int64_t width = std::min(group, cols - j);
      for (int64_t q = 0; q < width; q += step) {
        const int64_t at = j0 + j + q;
        const T* x = p.transpose_b ? p.b + at * p.ldb + k0 : p.b + k0 * p.ldb + at;
        pack<A>(table, p.transpose_b, x, p.ldb, std::min(step, width - q), k, b_packed + q * k,
                step);
      }
      Ahead ahead{reinterpret_cast<const char*>(a_packed), 0, 1, 1, 0};
      if (j + group < cols) {
        ahead = lines_of_b(p, k0, k, j0 + j + group, std::min(group, cols - j - group));
      } else if (block + 1 < blocks) {
        ahead = lines_of_a(p, i0, rows, k0 + k, std::min(depth, p.k - k0 - k));
      }
      for (int64_t i = 0; i < panels.count; ++i) {
        const int64_t row = panels.begin(i), size = panels.size(i);
        A* c = sums.data + row * sums.ld + j;
        for (int64_t q = 0; q < width; q += step) {
          table.tile[static_cast<size_t>(size)](k, a_packed + i * panels.stride, size,
                                                b_packed + q * k, step, c + q, sums.ld,
                                                std::min(step, width - q), sums.add, ahead);
        }
        if (block + 1 == blocks && needs_finish(p)) {
          finish(p, i0 + row, size, j0 + j, width, c, sums.ld);
        }
      }
    }
    sums.add = true;
  }
}

}  // namespace

template <class T, class TC>
void multiply_all(std::span<const Product<T, TC>> products) {
  const Kernels<Acc<T>>& table = kernels<Acc<T>>();
  const auto work = [](const Product<T, TC>& p) {
    return static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k + 8);
  };
  double all_work = 1;
  for (const auto& p : products) all_work += work(p);
  const int threads = num_threads();
  const double wanted = threads == 1 ? 1.0 : static_cast<double>(kTasksPerThread * threads);
  std::vector<Cut> cuts(products.size());
  int64_t tasks = 0;
  for (size_t i = 0; i < products.size(); ++i) {
    // Below some 100k multiplications a task costs less than handing it over.
    const double most = std::max(1.0, work(products[i]) / 1e5);
    cuts[i] = cut(products[i], table, std::min(most, wanted * work(products[i]) / all_work));
    cuts[i].first_task = tasks;
    tasks += cuts[i].rows * cuts[i].cols;
  }
  parallel_for(tasks, 1, [&](int64_t task, int64_t) {
    const auto after = std::upper_bound(cuts.begin(), cuts.end(), task,
                                        [](int64_t t, const Cut& c) { return t < c.first_task; });
    const auto index = static_cast<size_t>(after - cuts.begin()) - 1;
    const Product<T, TC>& p = products[index];
    const Cut& c = cuts[index];
    const int64_t local = task - c.first_task;
    const int64_t i0 = local / c.cols * c.tile_m, j0 = local % c.cols * c.tile_n;
    const int64_t rows = std::min(c.tile_m, p.m - i0), cols = std::min(c.tile_n, p.n - j0);
    if (c.slim) {
      run_slim(p, table, j0, cols);
    } else {
      run_tile(p, table, i0, rows, j0, cols);
    }
  });
}

template <class T, class TC>
void multiply(const Product<T, TC>& product) {
  multiply_all(std::span<const Product<T, TC>>(&product, 1));
}

#define PM_INSTANTIATE(T, TC)                                   \
  template void multiply<T, TC>(const Product<T, TC>& product); \
  template void multiply_all<T, TC>(std::span<const Product<T, TC>> products);
PM_INSTANTIATE(double, double)
PM_INSTANTIATE(float, float)
PM_INSTANTIATE(BFloat16, BFloat16)
PM_INSTANTIATE(BFloat16, float)
#undef PM_INSTANTIATE

}  // namespace pyramoe::gemm
