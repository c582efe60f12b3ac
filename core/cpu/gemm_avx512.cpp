// The matrix product's kernels for AVX-512. cmake/kernels.cmake gives this file, and no other, the
// flags; it is compiled to nothing where the compiler does not aim at x86-64.
#include "core/cpu/simd_register.h"

#if defined(PM_ISA_AVX512)
#include "core/cpu/gemm_tiles.h"

namespace pyramoe::gemm::detail {

template <class T>
const Kernels<T>& avx512_kernels() {
  static const Kernels<T> table = make_kernels<T>();
  return table;
}
template const Kernels<float>& avx512_kernels<float>();
template const Kernels<double>& avx512_kernels<double>();

}  // namespace pyramoe::gemm::detail
#endif
