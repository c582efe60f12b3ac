// Small kernels at the end of a step: a few hundred numbers, one launch each.
#include "core/kernels/step.h"

#include "cuda/vec.cuh"

namespace pyramoe::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kTermsALaunch = 96;  // their addresses travel as the kernel's parameters

struct Term {
  const void* data;
  int32_t count, first;  // elements, and the place of the first among the totals
  DType type;
};
struct Terms {
  Term term[kTermsALaunch];
};

__global__ void __launch_bounds__(kThreads) add_to_totals_kernel(Terms terms, double* totals) {
  const Term& t = terms.term[blockIdx.x];
  for (int i = static_cast<int>(threadIdx.x); i < t.count; i += kThreads) {
    double x = 0;
    if (t.type == DType::f64) x = static_cast<const double*>(t.data)[i];
    if (t.type == DType::f32) x = static_cast<const float*>(t.data)[i];
    if (t.type == DType::bf16) x = gpu::to_float(static_cast<const gpu::Bf16*>(t.data)[i]);
    if (t.type == DType::i32) x = static_cast<const int32_t*>(t.data)[i];
    totals[t.first + i] += x;
  }
}

__global__ void guard_step_kernel(const double* squares, int64_t parts, const double* loss,
                                  double most, double* scalars) {
  double sum = 0;
  for (int64_t i = 0; i < parts; ++i) sum += squares[i];
  const double norm = sqrt(sum);
  scalars[3] = most > 0 ? fmin(1.0, most / (norm + 1e-6)) : 1.0;
  scalars[4] = isfinite(norm) && isfinite(loss[0]) ? 0 : 1;
  scalars[5] = norm;
}

}  // namespace

void add_to_totals(std::span<const Tensor> terms, Tensor& totals) {
  int64_t next = 0;
  for (size_t begin = 0; begin < terms.size(); begin += kTermsALaunch) {
    const auto batch = terms.subspan(begin, std::min<size_t>(kTermsALaunch, terms.size() - begin));
    Terms all{};
    for (size_t i = 0; i < batch.size(); ++i) {
      all.term[i] = {batch[i].raw(), static_cast<int32_t>(batch[i].numel()),
                     static_cast<int32_t>(next), batch[i].dtype()};
      next += batch[i].numel();
    }
    PM_CHECK(next <= totals.numel(), "add_to_totals: more elements than the ", totals.numel(),
             " totals");
    add_to_totals_kernel<<<static_cast<unsigned>(batch.size()), kThreads, 0, gpu::stream()>>>(
        all, gpu::data<double>(totals));
    PM_LAUNCHED();
  }
  PM_CHECK(next == totals.numel(), "add_to_totals: ", next, " elements for ", totals.numel(),
           " totals");
}

void guard_step(const Tensor& squares, const Tensor& loss, double most, Tensor& scalars) {
  guard_step_kernel<<<1, 1, 0, gpu::stream()>>>(gpu::data<double>(squares), squares.numel(),
                                                gpu::data<double>(loss), most,
                                                gpu::data<double>(scalars));
  PM_LAUNCHED();
}

}  // namespace pyramoe::kernels::cuda
