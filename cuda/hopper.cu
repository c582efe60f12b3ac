// Tensor maps: what the copy engine needs to know of a tensor, encoded by the driver.
//
// The driver's function is fetched through the runtime, so that nothing links against libcuda and
// the program starts on machines without a GPU.
#include "cuda/hopper.cuh"

namespace pyramoe::gpu::hopper {
namespace {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                            const cuuint64_t*, const cuuint32_t*, const cuuint32_t*,
                            CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                            CUtensorMapFloatOOBfill);

Encode encode_function() {
  static const Encode function = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found{};
    PM_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                             cudaEnableDefault, &found));
    PM_CHECK(entry != nullptr && found == cudaDriverEntryPointSuccess,
             "tensor_map: this driver has no cuTensorMapEncodeTiled; Hopper kernels need a driver "
             "for CUDA 12 or later, or PYRAMOE_PORTABLE=1");
    return reinterpret_cast<Encode>(entry);
  }();
  return function;
}

}  // namespace

CUtensorMap tensor_map(const void* data, int rank, const int64_t* sizes, const int64_t* strides,
                       const int* box, Swizzle swizzle, Element element) {
  PM_CHECK(rank >= 1 && rank <= 5, "tensor_map: 1 to 5 axes, got ", rank);
  cuuint64_t size[5], stride[5] = {};
  cuuint32_t part[5], step[5];
  for (int i = 0; i < rank; ++i) {
    size[i] = static_cast<cuuint64_t>(sizes[i]), part[i] = static_cast<cuuint32_t>(box[i]);
    step[i] = 1;
    if (i + 1 < rank) stride[i] = static_cast<cuuint64_t>(strides[i]);
  }
  CUtensorMap map;
  const CUresult result = encode_function()(
      &map,
      element == Element::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
      static_cast<cuuint32_t>(rank), const_cast<void*>(data), size, stride, part, step,
      CU_TENSOR_MAP_INTERLEAVE_NONE,
      swizzle == Swizzle::none ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  PM_CHECK(result == CUDA_SUCCESS, "tensor_map: the driver refused a tensor of ", rank,
           " axes, fastest ", sizes[0], ", box ", box[0], " (CUresult ", static_cast<int>(result),
           ")");
  return map;
}

}  // namespace pyramoe::gpu::hopper
