// Does initcheck see what the bulk copy engine writes? A program for tests/gpu/sanitize.sh.
//
// It fills a buffer in one way only and reads all of it with ordinary loads. `none` fills nothing:
// every initcheck must complain; `plain` stores: none may. `bulk` and `tensor` send the same bytes
// from shared memory by the copy engine. A tool that complains there is blind to such stores, and
// what it says of the product's kernels that use them means nothing.
//   nvcc -arch=sm_90a tests/gpu/copy_engine_probe.cu -o probe; ./probe none|plain|bulk|tensor
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kLines = 64, kLine = 128;  // a box of the grouped products: 64 lines of 128 bytes
constexpr int kWords = kLines * kLine / 16;
enum class Way { none, plain, bulk, tensor };

void must(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "probe: %s failed\n", what);
  std::exit(2);
}
void must(cudaError_t error, const char* what) { must(error == cudaSuccess, what); }

__device__ uint4 word(int i) { return make_uint4(i, 2 * i, 3 * i, 4 * i); }

__global__ void fill(Way way, uint4* to, const __grid_constant__ CUtensorMap map) {
  __shared__ __align__(1024) uint4 box[kWords];
  for (int i = threadIdx.x; i < kWords; i += blockDim.x) {
    box[i] = word(i);
    if (way == Way::plain) to[i] = word(i);
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  if (threadIdx.x != 0 || way == Way::none || way == Way::plain) return;
  const auto from = static_cast<uint32_t>(__cvta_generic_to_shared(box));
  if (way == Way::bulk) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from),
                 "r"(kLines * kLine)
                 : "memory");
  } else {
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %2}], [%1];" ::"l"(&map),
        "r"(from), "r"(0)
        : "memory");
  }
  asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory");
}

__global__ void read(const uint4* from, int* wrong) {
  const int i = static_cast<int>(threadIdx.x);
  const uint4 got = from[i], want = word(i);
  if (got.x != want.x || got.y != want.y || got.z != want.z || got.w != want.w) atomicAdd(wrong, 1);
}

CUtensorMap map_of(void* data) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  must(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                        cudaEnableDefault, &found),
       "cuTensorMapEncodeTiled");
  CUtensorMap map;
  const cuuint64_t sizes[] = {kLine / 4, kLines}, strides[] = {kLine};
  const cuuint32_t box[] = {kLine / 4, kLines}, steps[] = {1, 1};
  const auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  must(encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT32, 2, data, sizes, strides, box, steps,
              CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
              CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS,
       "the tensor map");
  return map;
}

}  // namespace

int main(int argc, char** argv) {
  const char* names[] = {"none", "plain", "bulk", "tensor"};
  int way = 0;
  while (way < 4 && (argc < 2 || std::strcmp(argv[1], names[way]) != 0)) ++way;
  must(way < 4, "one of none, plain, bulk, tensor was expected: reading the arguments");
  uint4* data = nullptr;
  int *wrong = nullptr, seen = 0;
  must(cudaMalloc(&data, kLines * kLine), "cudaMalloc");
  must(cudaMalloc(&wrong, sizeof(int)), "cudaMalloc");
  must(cudaMemset(wrong, 0, sizeof(int)), "cudaMemset");
  fill<<<1, 128>>>(static_cast<Way>(way), data, map_of(data));
  read<<<1, kWords>>>(data, wrong);
  must(cudaMemcpy(&seen, wrong, sizeof(int), cudaMemcpyDeviceToHost), "the kernels");
  std::printf("%s: %d of %d words are not what was written\n", names[way], seen, kWords);
  return way != 0 && seen != 0 ? 1 : 0;
}
