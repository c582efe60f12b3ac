// Routing from naive to fast: choose an expert for every token, sort, move the rows and bring them
// back. Each step is checked against the CPU twin, then timed against a stated limit.
//
//   router   1 naive     a thread a logit, then a thread a token
//            2 plain     cast, an f32 product, softmax, top-k, take: five launches, x as f32 in HBM
//            3 product   bf16 planes on the tensor cores, choices from the same kernel
//   rows     1 naive     a thread an expert reads all choices
//            2 product   count, scan, place: a warp a chunk, match_any
//   permute  1 naive     a thread an element
//            2 wide      16 bytes a thread
//            3 product   a warp a token, four loads in flight a lane
//
// Limit: the bytes that must move, at the rate of a large copy in the same run; memory is cold (a
// fill of 256 MB lies between two calls).
// Run: workshop_router [tokens = 65536] [features = 1024] [experts = 32]
#include "core/kernels/cast.h"
#include "core/kernels/matmul.h"
#include "core/kernels/moe.h"
#include "core/kernels/softmax.h"
#include "cuda/vec.cuh"
#include "cuda/workshop/bench.cuh"

namespace pyramoe::workshop {
namespace {

using gpu::Bf16;
using gpu::stream;
using gpu::to_float;

constexpr int kThreads = 256;

// ---- the naive steps

__global__ void logits_kernel(const Bf16* x, const float* w, int64_t rows, int64_t d, int64_t e,
                              float* logits) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows * e) return;
  float sum = 0;
  for (int64_t c = 0; c < d; ++c) sum += to_float(x[i / e * d + c]) * w[i % e * d + c];
  logits[i] = sum;
}
__global__ void first_choice_kernel(const float* logits, int64_t rows, int64_t e, int32_t* expert,
                                    float* weight) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= rows) return;
  const float* row = logits + n * e;
  int best = 0;
  for (int i = 1; i < e; ++i) best = row[i] > row[best] ? i : best;
  float sum = 0;
  for (int i = 0; i < e; ++i) sum += expf(row[i] - row[best]);
  expert[n] = best;
  weight[n] = 1 / sum;
}
__global__ void naive_rows_kernel(const int32_t* expert, int64_t choices, int experts,
                                  int32_t* row) {
  const int e = static_cast<int>(threadIdx.x);
  if (e >= experts) return;
  int32_t next = 0;
  for (int64_t i = 0; i < choices; ++i) next += expert[i] < e;
  for (int64_t i = 0; i < choices; ++i) {
    if (expert[i] == e) row[i] = next++;
  }
}
template <class T>
__global__ void permute_kernel(const T* x, const int32_t* row, int64_t rows, int64_t width, T* y) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < rows * width) y[row[i / width] * width + i % width] = x[i];
}

// ---- measuring

struct Bench {
  Tensor flush{Shape{int64_t{256} << 20}, DType::u8, kGpu};
  double copy_rate = 0;  // bytes/s
  int wrong = 0;

  // Each call finds cold memory.
  double cold_ms(const std::function<void()>& call) {
    return median_ms(call, 1, [&] { flush.zero(); });
  }
  void line(const char* name, double bytes, bool right, const std::function<void()>& call) {
    const double ms = cold_ms(call), limit = bytes / copy_rate * 1e3;
    std::printf("%-26s %8.1f us  limit %7.1f us  %5.1f %%  %6.2f TB/s  %s\n", name, ms * 1e3,
                limit * 1e3, 100 * limit / ms, bytes / ms * 1e-9, right ? "right" : "WRONG");
    wrong += !right;
  }
};

double largest_difference(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_vector(), y = b.to_vector();
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(x[i] - y[i]));
  return worst;
}
// Choices may differ where logits are as good as equal.
bool mostly_equal(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_vector(), y = b.to_vector();
  size_t other = 0;
  for (size_t i = 0; i < x.size(); ++i) other += x[i] != y[i];
  return other * 2000 <= x.size();
}

Tensor random(Shape shape, DType type, double scale, uint64_t seed) {
  Tensor x(std::move(shape), DType::f32);
  for (int64_t i = 0; i < x.numel(); ++i) {
    const float u = random_uniform({seed, RngPurpose::test, 0, 0}, static_cast<uint64_t>(i));
    x.data<float>()[i] = static_cast<float>(scale * 3.46 * (u - 0.5));
  }
  return x.to(type);
}

struct Sizes {
  int64_t n, d, e;
  double token_bytes() const { return static_cast<double>(n * d) * 2; }
};

struct Routed {
  Tensor p, lse, expert, weight;
  Routed(const Sizes& s, Device device)
      : p({s.n, s.e}, DType::f32, device),
        lse({s.n}, DType::f32, device),
        expert({s.n, 1}, DType::i32, device),
        weight({s.n, 1}, DType::f32, device) {}
};

void router_steps(Bench& bench, const Sizes& s, const Tensor& x, const Tensor& w, Routed& want) {
  kernels::router_forward(x, w, want.p, want.lse, want.expert, want.weight);
  const Tensor gx = x.to(kGpu), gw = w.to(kGpu);
  Routed r(s, kGpu);
  const auto right = [&] {
    const bool good =
        mostly_equal(want.expert, r.expert) && largest_difference(want.weight, r.weight) < 1e-4;
    r = Routed(s, kGpu);
    return good;
  };
  const double bytes = s.token_bytes() + 4.0 * static_cast<double>(s.e * s.d + s.n * s.e + 2 * s.n);
  Tensor logits({s.n, s.e}, DType::f32, kGpu), wide({s.n, s.d}, DType::f32, kGpu);
  const auto naive = [&] {
    logits_kernel<<<gpu::grid(s.n * s.e, kThreads), kThreads, 0, stream()>>>(
        gpu::data<Bf16>(gx), gpu::data<float>(gw), s.n, s.d, s.e, gpu::data<float>(logits));
    first_choice_kernel<<<gpu::grid(s.n, kThreads), kThreads, 0, stream()>>>(
        gpu::data<float>(logits), s.n, s.e, gpu::data<int32_t>(r.expert),
        gpu::data<float>(r.weight));
    PM_LAUNCHED();
  };
  const auto plain = [&] {
    kernels::cast(gx, wide);
    kernels::linear_forward(wide, gw, Tensor(), logits);
    kernels::softmax_forward(logits, r.p);
    kernels::top_k(logits, Tensor(), r.expert);
    kernels::take_forward(r.p, r.expert, r.weight);
  };
  const auto product = [&] { kernels::router_forward(gx, gw, r.p, r.lse, r.expert, r.weight); };
  naive();
  bench.line("router 1 naive", bytes, right(), naive);
  plain();
  bench.line("router 2 plain", bytes, right(), plain);
  product();
  bench.line("router 3 product", bytes, right(), product);
}

struct Rows {
  Tensor row, offsets, load;
  Rows(const Sizes& s, Device device)
      : row({s.n, 1}, DType::i32, device),
        offsets({s.e + 1}, DType::i32, device),
        load({s.e}, DType::i32, device) {}
};

void row_steps(Bench& bench, const Sizes& s, const Routed& routed, Rows& want) {
  kernels::assign_rows(routed.expert, Tensor(), want.row, want.offsets, want.load);
  const Tensor expert = routed.expert.to(kGpu), weight = routed.weight.to(kGpu);
  Rows r(s, kGpu);
  const double bytes = 8.0 * static_cast<double>(s.n);
  const auto right = [&] { return largest_difference(want.row, r.row) == 0; };
  const auto naive = [&] {
    naive_rows_kernel<<<1, static_cast<unsigned>(s.e), 0, stream()>>>(
        gpu::data<int32_t>(expert), s.n, static_cast<int>(s.e), gpu::data<int32_t>(r.row));
    PM_LAUNCHED();
  };
  const auto product = [&] { kernels::assign_rows(expert, Tensor(), r.row, r.offsets, r.load); };
  if (s.e <= 1024 && s.n <= 16384) {
    naive();
    bench.line("rows 1 naive", bytes, right(), naive);
  }
  product();
  bench.line("rows 2 product", bytes, right(), product);
  Tensor kept({s.n, 1}, DType::u8), on_gpu({s.n, 1}, DType::u8, kGpu);
  const int64_t capacity = s.n / s.e;
  const char* names[] = {"capacity by position", "capacity by probability", "capacity at random"};
  for (const auto order :
       {kernels::DropBy::position, kernels::DropBy::probability, kernels::DropBy::random}) {
    const auto keep = [&] {
      kernels::keep_within_capacity(expert, weight, s.e, s.n, capacity, order, {}, 0, on_gpu);
    };
    kernels::keep_within_capacity(routed.expert, routed.weight, s.e, s.n, capacity, order, {}, 0,
                                  kept);
    keep();
    bench.line(names[static_cast<int>(order)], bytes, largest_difference(kept, on_gpu) == 0, keep);
  }
}

void permute_steps(Bench& bench, const Sizes& s, const Tensor& x, const Routed& routed,
                   const Rows& rows) {
  Tensor want({s.n, s.d}, DType::bf16), sum = empty_like(want);
  kernels::to_segments_forward(x, rows.row, want);
  kernels::from_segments_forward(want, routed.weight, rows.row, sum);
  const Tensor gx = x.to(kGpu), row = rows.row.to(kGpu), weight = routed.weight.to(kGpu);
  Tensor y({s.n, s.d}, DType::bf16, kGpu), back = empty_like(y), dweight = empty_like(weight);
  const double bytes = 2 * s.token_bytes();
  const auto right = [&] { return largest_difference(want, y) == 0; };
  const auto naive = [&] {
    permute_kernel<<<gpu::grid(s.n * s.d, kThreads), kThreads, 0, stream()>>>(
        gpu::data<Bf16>(gx), gpu::data<int32_t>(row), s.n, s.d, gpu::data<Bf16>(y));
    PM_LAUNCHED();
  };
  const auto wide = [&] {
    permute_kernel<<<gpu::grid(s.n * s.d / 8, kThreads), kThreads, 0, stream()>>>(
        gpu::data<uint4>(gx), gpu::data<int32_t>(row), s.n, s.d / 8, gpu::data<uint4>(y));
    PM_LAUNCHED();
  };
  const auto product = [&] { kernels::to_segments_forward(gx, row, y); };
  naive();
  bench.line("permute 1 naive", bytes, right(), naive);
  y.zero();
  wide();
  bench.line("permute 2 wide", bytes, right(), wide);
  y.zero();
  product();
  bench.line("permute 3 product", bytes, right(), product);
  const auto combine = [&] { kernels::from_segments_forward(y, weight, row, back); };
  combine();
  bench.line("combine", bytes, largest_difference(sum, back) < 0.05, combine);
  const auto to_backward = [&] { kernels::to_segments_backward(y, row, back); };
  to_backward();
  bench.line("permute backward", bytes, largest_difference(x, back) == 0, to_backward);
  Tensor dx = empty_like(y);
  const auto from_backward = [&] {
    kernels::from_segments_backward(gx, y, weight, row, dx, dweight);
  };
  from_backward();
  bench.line("combine backward", 3 * s.token_bytes(), true, from_backward);
}

void gradient_steps(Bench& bench, const Sizes& s, const Tensor& x, const Tensor& w,
                    const Routed& routed) {
  const Tensor gx = x.to(kGpu), gw = w.to(kGpu), p = routed.p.to(kGpu), lse = routed.lse.to(kGpu),
               expert = routed.expert.to(kGpu), one = Tensor::full({1}, DType::f32, 0.01, kGpu);
  Tensor balance({1}, DType::f32, kGpu), share({1, s.e}, DType::f32, kGpu), none;
  const double table = 4.0 * static_cast<double>(s.n * s.e);
  const auto losses = [&] {
    kernels::router_losses(p, lse, expert, s.n, false, balance, share, none);
  };
  losses();
  bench.line("losses", table, true, losses);
  const Tensor dweight = routed.weight.to(kGpu);
  Tensor dx({s.n, s.d}, DType::bf16, kGpu), dw({s.e, s.d}, DType::f32, kGpu);
  dx.zero();
  bench.line("router backward", 3 * s.token_bytes() + table, true, [&] {
    kernels::router_backward(dweight, one, none, p, lse, expert, share, s.n, gx, gw, true, false,
                             dx, dw);
  });
}

int run(const Sizes& s) {
  Bench bench;
  const Tensor a({int64_t{1} << 30}, DType::u8, kGpu), b = empty_like(a);
  a.zero();
  bench.copy_rate =
      2.0 * static_cast<double>(a.bytes()) / bench.cold_ms([&] { b.copy_from(a); }) * 1e3;
  std::printf("%ld tokens, %ld features, %ld experts; copy %.2f TB/s\n", static_cast<long>(s.n),
              static_cast<long>(s.d), static_cast<long>(s.e), bench.copy_rate * 1e-12);
  const Tensor x = random({s.n, s.d}, DType::bf16, 1, 1),
               w = random({s.e, s.d}, DType::f32, 0.02, 2);
  Routed routed(s, kCpu);
  Rows rows(s, kCpu);
  router_steps(bench, s, x, w, routed);
  row_steps(bench, s, routed, rows);
  permute_steps(bench, s, x, routed, rows);
  gradient_steps(bench, s, x, w, routed);
  return bench.wrong;
}

}  // namespace
}  // namespace pyramoe::workshop

int main(int argc, char** argv) {
  using namespace pyramoe;
  if (!cuda_available()) return std::puts("no CUDA device here: nothing to measure"), 0;
  using workshop::argument;
  const workshop::Sizes sizes{argument(argc, argv, 1, 65536), argument(argc, argv, 2, 1024),
                              argument(argc, argv, 3, 32)};
  return workshop::run(sizes) == 0 ? 0 : 1;
}
