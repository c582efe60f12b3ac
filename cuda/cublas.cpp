#include "cuda/cublas.h"

#include <cublasLt.h>

#include <array>
#include <bit>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "core/cuda_device.h"
#include "cuda/launch.cuh"

namespace pyramoe::gpu {
namespace {

#define PM_CUBLAS(call)                                                              \
  do {                                                                               \
    const cublasStatus_t pm_status = (call);                                         \
    if (pm_status != CUBLAS_STATUS_SUCCESS) fail_cublas(pm_status, #call, __LINE__); \
  } while (0)

[[noreturn]] void fail_cublas(cublasStatus_t status, const char* call, int line) {
  fail(Exit::bug, "cuBLAS: ", call, " at cuda/cublas.cpp:", line, ": ",
       cublasLtGetStatusString(status));
}

constexpr size_t kWorkspace = 32 << 20;  // what NVIDIA advises on Hopper

cudaDataType_t cuda_type(DType type) { return type == DType::f32 ? CUDA_R_32F : CUDA_R_16BF; }

// All that the choice of a kernel depends on.
struct Key {
  int64_t m, n, k;
  bool transpose_a, transpose_b, accumulate, bias;
  DType type, c_type;
  uint32_t align_a, align_b, align_c, align_bias;
  auto operator<=>(const Key&) const = default;
};

// A product ready to run: shapes, epilogue and the kernel chosen for them.
struct Plan {
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algo{};
  bool found = false;
};

struct Handle {
  cublasLtHandle_t lt = nullptr;
  void* workspace = nullptr;
  std::map<Key, Plan> plans;
};

// 16 bytes is all that any kernel asks for; more would only make plans depend on the allocator.
uint32_t alignment(const void* p) {
  const auto bits = reinterpret_cast<uintptr_t>(p) | 16;
  return 1u << std::countr_zero(bits);
}

template <class T>
void set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t what, const T& value) {
  PM_CUBLAS(cublasLtMatmulDescSetAttribute(desc, what, &value, sizeof(value)));
}

// A row-major (rows, cols) matrix is a column-major (cols, rows) one. So c = a b is computed as
// c^T = b^T a^T: b is cuBLAS's first factor, a its second.
cublasLtMatrixLayout_t layout(DType type, int64_t rows, int64_t cols) {
  cublasLtMatrixLayout_t result = nullptr;
  PM_CUBLAS(cublasLtMatrixLayoutCreate(&result, cuda_type(type), static_cast<uint64_t>(cols),
                                       static_cast<uint64_t>(rows), cols));
  return result;
}

cublasLtMatmulDesc_t describe(const Key& key, cublasComputeType_t compute) {
  cublasLtMatmulDesc_t desc = nullptr;
  PM_CUBLAS(cublasLtMatmulDescCreate(&desc, compute, CUDA_R_32F));
  const auto op = [](bool transpose) { return transpose ? CUBLAS_OP_T : CUBLAS_OP_N; };
  set(desc, CUBLASLT_MATMUL_DESC_TRANSA, op(key.transpose_b));
  set(desc, CUBLASLT_MATMUL_DESC_TRANSB, op(key.transpose_a));
  if (!key.bias) return desc;
  set(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  set(desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cuda_type(key.type));
  return desc;
}

// Asks cuBLAS for its best kernel.
bool choose(const Handle& handle, const Key& key, Plan& plan) {
  cublasLtMatmulPreference_t wish = nullptr;
  PM_CUBLAS(cublasLtMatmulPreferenceCreate(&wish));
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
    PM_CUBLAS(cublasLtMatmulPreferenceSetAttribute(wish, what, &value, sizeof(value)));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.align_b);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.align_a);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.align_c);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.align_c);
  cublasLtMatmulHeuristicResult_t best{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle.lt, plan.desc, plan.a, plan.b, plan.c, plan.c, wish, 1, &best, &count);
  cublasLtMatmulPreferenceDestroy(wish);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0) return false;
  plan.algo = best.algo;
  return true;
}

Plan make_plan(const Handle& handle, const Key& key) {
  Plan plan;
  plan.a = key.transpose_b ? layout(key.type, key.n, key.k) : layout(key.type, key.k, key.n);
  plan.b = key.transpose_a ? layout(key.type, key.k, key.m) : layout(key.type, key.m, key.k);
  plan.c = layout(key.c_type, key.m, key.n);
  // Pedantic: never TF32, whatever the environment says. Some f32 epilogues exist only without it;
  // plain 32F is the same arithmetic.
  const bool f32 = key.type == DType::f32;
  for (const cublasComputeType_t compute :
       {f32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F}) {
    plan.desc = describe(key, compute);
    plan.found = choose(handle, key, plan);
    if (plan.found) break;
    cublasLtMatmulDescDestroy(plan.desc);
    plan.desc = nullptr;
  }
  return plan;
}

std::mutex mutex;

// One handle a device, never destroyed: CUDA ends before statics do.
Handle& handle() {
  static std::array<std::unique_ptr<Handle>, 64> handles;
  int device = 0;
  PM_CUDA(cudaGetDevice(&device));
  std::unique_ptr<Handle>& handle = handles[static_cast<size_t>(device)];
  if (!handle) {
    PM_CHECK(!cuda_device::capturing(), "the first product runs inside a captured step; run the ",
             "step once before it is captured");
    handle = std::make_unique<Handle>();
    PM_CUBLAS(cublasLtCreate(&handle->lt));
    PM_CUDA(cudaMalloc(&handle->workspace, kWorkspace));
  }
  return *handle;
}

}  // namespace

bool multiply(const Product& p) {
  const cudaStream_t queue = stream();  // also makes the device current
  const std::lock_guard lock(mutex);
  Handle& h = handle();
  void* out = p.c;
  const Key key{p.m,
                p.n,
                p.k,
                p.transpose_a,
                p.transpose_b,
                p.accumulate,
                p.bias != nullptr,
                p.type,
                p.c_type,
                alignment(p.a),
                alignment(p.b),
                alignment(out),
                alignment(p.bias)};
  const auto [place, fresh] = h.plans.try_emplace(key);
  Plan& plan = place->second;
  if (fresh) plan = make_plan(h, key);
  if (!plan.found) return false;
  if (key.bias) set(plan.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
  const float alpha = 1, beta = p.accumulate ? 1 : 0;
  const cublasStatus_t status =
      cublasLtMatmul(h.lt, plan.desc, &alpha, p.b, plan.a, p.a, plan.b, &beta, out, plan.c, out,
                     plan.c, &plan.algo, h.workspace, kWorkspace, queue);
  // Some products are refused only here.
  plan.found = status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE;
  if (plan.found) PM_CUBLAS(status);
  return plan.found;
}

}  // namespace pyramoe::gpu
