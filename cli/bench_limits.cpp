#include "cli/bench_limits.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>

#include "core/cuda_device.h"
#include "core/kernels/matmul.h"
#include "core/kernels/reduce.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "core/tensor.h"

namespace pyramoe::bench {
namespace {

Tensor mixed_numbers(int64_t n, DType dtype) {
  Tensor x({n, n}, DType::f32);
  float* v = x.data<float>();
  parallel_for(n, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * n; i < end * n; ++i) {
      v[i] = random_uniform({1, RngPurpose::test, 0, 0}, static_cast<uint64_t>(i)) - 0.5f;
    }
  });
  return x.to(dtype);
}

// A GPU's power limit shows in long runs only: its products run for about half a second, on numbers
// as mixed as a network's.
double best_gemm(DType dtype, Device device) {
  const bool gpu = device.type == DeviceType::cuda;
  double best = 0;
  for (const int64_t n :
       gpu ? std::vector<int64_t>{4096, 8192} : std::vector<int64_t>{1024, 1536, 2048}) {
    const Tensor a = mixed_numbers(n, dtype).to(device), b = a.clone();
    Tensor c({n, n}, dtype, device);
    const int64_t runs = !gpu ? 5 : dtype == DType::bf16 ? 400 * 4096 / n : 10;
    const std::vector<double> t =
        time_runs(device, 1, runs, [&] { kernels::matmul(a, false, b, true, false, c); });
    const auto size = static_cast<double>(n);
    best = std::max(best, 2 * size * size * size / (gpu ? median(t) : t.front()));
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

std::vector<double> time_runs(Device device, int64_t warmup, int64_t runs,
                              const std::function<void()>& call) {
  if (device.type != DeviceType::cuda) return time_runs(warmup, runs, call);
  for (int64_t i = 0; i < warmup; ++i) call();
  std::vector<std::shared_ptr<void>> marks{cuda_device::mark(device.index)};
  for (int64_t i = 0; i < runs; ++i) {
    call();
    marks.push_back(cuda_device::mark(device.index));
  }
  std::vector<double> seconds;
  for (size_t i = 0; i + 1 < marks.size(); ++i) {
    seconds.push_back(cuda_device::seconds_between(marks[i].get(), marks[i + 1].get()));
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds;
}

int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

Limits measure_limits(DType dtype, Device device) {
  Limits limits;
  limits.gemm_flops = best_gemm(dtype, device);
  if (device.type == DeviceType::cuda) {
    const Tensor from = Tensor::zeros({int64_t{1} << 32}, DType::u8, device), to = empty_like(from);
    const auto bytes = static_cast<double>(from.bytes());
    limits.copy_bytes = 2 * bytes / median(time_runs(device, 2, 10, [&] { to.copy_from(from); }));
    const Tensor numbers(from.storage(), 0, {from.bytes() / 4}, DType::f32);
    Tensor sum({1}, DType::f64, device);
    limits.read_bytes =
        bytes / median(time_runs(device, 2, 10, [&] { kernels::sum_squares(numbers, sum); }));
    return limits;
  }
  limits.read_bytes = best_read();
  limits.copy_bytes = best_copy();
  return limits;
}

}  // namespace pyramoe::bench
