// Chooses, once, the table of inner kernels that this machine runs best.
//
// PYRAMOE_KERNELS=base keeps the program to its own instruction set: results are the same bits.
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "core/cpu/gemm_kernels.h"
#include "core/error.h"

namespace pyramoe::gemm {
namespace {

bool have_avx512() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

bool choose() {
  const char* asked = std::getenv("PYRAMOE_KERNELS");
  if (asked == nullptr || *asked == '\0') return have_avx512();
  const bool avx512 = std::strcmp(asked, "avx512") == 0;
  if (!avx512 && std::strcmp(asked, "base") != 0) {
    fail(Exit::config, "PYRAMOE_KERNELS must be \"avx512\" or \"base\", got \"", asked, "\"");
  }
  if (avx512 && !have_avx512()) {
    fail(Exit::config, "PYRAMOE_KERNELS=avx512: this machine has no AVX-512; leave it unset");
  }
  return avx512;
}

std::atomic<bool>& avx512_chosen() {
  static std::atomic<bool> chosen(choose());
  return chosen;
}

}  // namespace

template <class T>
const Kernels<T>& kernels() {
#if defined(__x86_64__)
  if (avx512_chosen().load(std::memory_order_relaxed)) return detail::avx512_kernels<T>();
#endif
  return detail::base_kernels<T>();
}
template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();

bool use_kernels(const char* name) {
  const bool avx512 = std::strcmp(name, "avx512") == 0;
  if (avx512 ? !have_avx512() : std::strcmp(name, "base") != 0) return false;
  avx512_chosen().store(avx512, std::memory_order_relaxed);
  return true;
}

}  // namespace pyramoe::gemm
