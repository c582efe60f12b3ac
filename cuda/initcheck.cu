// Results written ahead, for initcheck (cuda/initcheck.h).
#include "cuda/initcheck.h"

#include "core/environment.h"
#include "cuda/grouped.h"
#include "cuda/launch.cuh"

namespace pyramoe::gpu {
namespace {

__global__ void fill_rows_kernel(uint4* data, int64_t row_words, const int32_t* offsets,
                                 int64_t experts) {
  const int64_t end = offsets[experts] * row_words;
  const int64_t first = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (int64_t i = offsets[0] * row_words + first; i < end; i += int64_t{gridDim.x} * blockDim.x) {
    data[i] = make_uint4(~0u, ~0u, ~0u, ~0u);
  }
}

}  // namespace

bool initcheck_is_blind() {
  static const bool blind = environment_flag("PYRAMOE_INITCHECK");
  return blind;
}

void fill_for_initcheck(void* data, int64_t bytes) {
  if (!initcheck_is_blind()) return;
  PM_CUDA(cudaMemsetAsync(data, 0xff, static_cast<size_t>(bytes), stream()));
}

void fill_for_initcheck(const grouped::Product& p) {
  if (!initcheck_is_blind()) return;
  if (p.form == grouped::Form::dw) {
    if (!p.accumulate) fill_for_initcheck(p.c, p.experts * p.m * p.k * (p.wide ? 4 : 2));
    return;
  }
  const int64_t row_words = (p.form == grouped::Form::forward ? p.m : p.k) / 8;
  for (void* out : {p.c, p.extra}) {
    if (out == nullptr || out == p.pre) continue;
    fill_rows_kernel<<<static_cast<unsigned>(multiprocessors()), 256, 0, stream()>>>(
        static_cast<uint4*>(out), row_words, p.offsets, p.experts);
    PM_LAUNCHED();
  }
}

}  // namespace pyramoe::gpu
