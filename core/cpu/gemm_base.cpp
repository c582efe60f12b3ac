// The matrix product's kernels for the instruction set that the whole program is built for.
#include "core/cpu/gemm_tiles.h"

namespace pyramoe::gemm::detail {

template <class T>
const Kernels<T>& base_kernels() {
  static const Kernels<T> table = make_kernels<T>();
  return table;
}
template const Kernels<float>& base_kernels<float>();
template const Kernels<double>& base_kernels<double>();

}  // namespace pyramoe::gemm::detail
