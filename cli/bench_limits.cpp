#include "cli/bench_limits.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "core/kernels/matmul.h"
#include "core/parallel.h"
#include "core/tensor.h"

namespace pyramoe::bench {
namespace {

double best_gemm(DType dtype) {
  double best = 0;
  for (const int64_t n : {1024, 1536, 2048}) {
    const Tensor a = Tensor::full({n, n}, dtype, 0.5), b = Tensor::full({n, n}, dtype, 0.25);
    Tensor c({n, n}, dtype);
    const std::vector<double> t =
        time_runs(1, 5, [&] { kernels::matmul(a, false, b, true, false, c); });
    const auto size = static_cast<double>(n);
    best = std::max(best, 2 * size * size * size / t.front());
  }
  return best;
}

// Sums 64-bit words over fixed pieces; the sum is stored so that the reading cannot be skipped.
double best_read() {
  const int64_t words = 64 << 20;
  const Tensor data = Tensor::full({words}, DType::i64, 1);
  const int64_t* x = data.data<int64_t>();
  const int64_t piece = 1 << 18;
  std::vector<int64_t> sums(static_cast<size_t>(words / piece));
  const std::vector<double> t = time_runs(1, 5, [&] {
    parallel_for(words, piece, [&](int64_t begin, int64_t end) {
      int64_t s[8] = {};
      for (int64_t i = begin; i < end; i += 8) {
        for (int64_t j = 0; j < 8; ++j) s[j] += x[i + j];
      }
      sums[static_cast<size_t>(begin / piece)] =
          s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
    });
  });
  return static_cast<double>(words * 8) / t.front();
}

double best_copy() {
  const int64_t bytes = 256 << 20;
  const Tensor from = Tensor::full({bytes}, DType::u8, 1);
  const Tensor to({bytes}, DType::u8);
  const std::vector<double> t = time_runs(1, 5, [&] {
    parallel_for(bytes, 4 << 20, [&](int64_t begin, int64_t end) {
      std::memcpy(to.data<uint8_t>() + begin, from.data<uint8_t>() + begin,
                  static_cast<size_t>(end - begin));
    });
  });
  return static_cast<double>(2 * bytes) / t.front();
}

}  // namespace

std::vector<double> time_runs(int64_t warmup, int64_t runs, const std::function<void()>& call) {
  for (int64_t i = 0; i < warmup; ++i) call();
  std::vector<double> seconds;
  for (int64_t i = 0; i < runs; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    call();
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n == 0 ? 0 : n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

Limits measure_limits(DType dtype) {
  Limits limits;
  limits.gemm_flops = best_gemm(dtype);
  limits.read_bytes = best_read();
  limits.copy_bytes = best_copy();
  return limits;
}

}  // namespace pyramoe::bench
