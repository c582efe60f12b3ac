// One native vector register and what kernels do with it, for AVX-512, AVX2 and everything else.
//
// Every operation is one IEEE operation per lane, so code written with these gives the same bits at
// any register width. All names live in an inline namespace of the instruction set: a file compiled
// with other flags gets its own copies, never another file's.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define PM_ISA avx512
#define PM_ISA_AVX512 1
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__FMA__)
#define PM_ISA avx2
#define PM_ISA_AVX2 1
#include <immintrin.h>
#else
#define PM_ISA portable
#endif

namespace pyramoe::simd {
inline namespace PM_ISA {

template <class T>
struct Reg;

#if defined(PM_ISA_AVX512)

template <>
struct Reg<float> {
  using V = __m512;
  static constexpr int lanes = 16;
  static __mmask16 mask(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static V set(float x) { return _mm512_set1_ps(x); }
  static V load(const float* p) { return _mm512_loadu_ps(p); }
  static V load(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  static V widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  static V load(const BFloat16* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static V load(const BFloat16* p, int64_t n) {
    return widen(_mm256_maskz_loadu_epi16(mask(n), p));
  }
  static void store(float* p, V x) { _mm512_storeu_ps(p, x); }
  static void store(float* p, V x, int64_t n) { _mm512_mask_storeu_ps(p, mask(n), x); }
  static __m256i narrow(V x) {
    const __m512i u = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i near = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    const __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(nan, near, quiet), 16));
  }
  static void store(BFloat16* p, V x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x));
  }
  static void store(BFloat16* p, V x, int64_t n) {
    _mm256_mask_storeu_epi16(p, mask(n), narrow(x));
  }
  static V add(V a, V b) { return _mm512_add_ps(a, b); }
  static V sub(V a, V b) { return _mm512_sub_ps(a, b); }
  static V mul(V a, V b) { return _mm512_mul_ps(a, b); }
  static V div(V a, V b) { return _mm512_div_ps(a, b); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static V max(V a, V b) { return _mm512_max_ps(a, b); }
  static V min(V a, V b) { return _mm512_min_ps(a, b); }
  static V round(V a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT); }
  static V pow2(V n) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
  }
  static V less(V a, V b, V yes, V no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
  }
};

template <>
struct Reg<double> {
  using V = __m512d;
  static constexpr int lanes = 8;
  static __mmask8 mask(int64_t n) { return static_cast<__mmask8>((1u << n) - 1u); }
  static V set(double x) { return _mm512_set1_pd(x); }
  static V load(const double* p) { return _mm512_loadu_pd(p); }
  static V load(const double* p, int64_t n) { return _mm512_maskz_loadu_pd(mask(n), p); }
  static void store(double* p, V x) { _mm512_storeu_pd(p, x); }
  static void store(double* p, V x, int64_t n) { _mm512_mask_storeu_pd(p, mask(n), x); }
  static V add(V a, V b) { return _mm512_add_pd(a, b); }
  static V sub(V a, V b) { return _mm512_sub_pd(a, b); }
  static V mul(V a, V b) { return _mm512_mul_pd(a, b); }
  static V div(V a, V b) { return _mm512_div_pd(a, b); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_pd(a, b, c); }
  static V max(V a, V b) { return _mm512_max_pd(a, b); }
  static V min(V a, V b) { return _mm512_min_pd(a, b); }
  static V round(V a) { return _mm512_roundscale_pd(a, _MM_FROUND_TO_NEAREST_INT); }
  static V pow2(V n) {
    const __m512i i = _mm512_cvtepi32_epi64(_mm512_cvtpd_epi32(n));
    return _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_add_epi64(i, _mm512_set1_epi64(1023)), 52));
  }
  static V less(V a, V b, V yes, V no) {
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(a, b, _CMP_LT_OQ), no, yes);
  }
};

#elif defined(PM_ISA_AVX2)

template <>
struct Reg<float> {
  using V = __m256;
  static constexpr int lanes = 8;
  static __m256i mask(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static V set(float x) { return _mm256_set1_ps(x); }
  static V load(const float* p) { return _mm256_loadu_ps(p); }
  static V load(const float* p, int64_t n) { return _mm256_maskload_ps(p, mask(n)); }
  static V load(const BFloat16* p) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  static V load(const BFloat16* p, int64_t n) {
    BFloat16 part[lanes] = {};
    std::memcpy(static_cast<void*>(part), p, static_cast<size_t>(n) * sizeof(BFloat16));
    return load(part);
  }
  static void store(float* p, V x) { _mm256_storeu_ps(p, x); }
  static void store(float* p, V x, int64_t n) { _mm256_maskstore_ps(p, mask(n), x); }
  static void store(BFloat16* p, V x) {
    const __m256i u = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i near = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i y = _mm256_srli_epi32(_mm256_blendv_epi8(near, quiet, nan), 16);
    const __m256i z = _mm256_permute4x64_epi64(_mm256_packus_epi32(y, y), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(z));
  }
  static void store(BFloat16* p, V x, int64_t n) {
    BFloat16 part[lanes];
    store(part, x);
    std::memcpy(static_cast<void*>(p), part, static_cast<size_t>(n) * sizeof(BFloat16));
  }
  static V add(V a, V b) { return _mm256_add_ps(a, b); }
  static V sub(V a, V b) { return _mm256_sub_ps(a, b); }
  static V mul(V a, V b) { return _mm256_mul_ps(a, b); }
  static V div(V a, V b) { return _mm256_div_ps(a, b); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static V max(V a, V b) { return _mm256_max_ps(a, b); }
  static V min(V a, V b) { return _mm256_min_ps(a, b); }
  static V round(V a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT); }
  static V pow2(V n) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
  }
  static V less(V a, V b, V yes, V no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
  }
};

template <>
struct Reg<double> {
  using V = __m256d;
  static constexpr int lanes = 4;
  static __m256i mask(int64_t n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
  }
  static V set(double x) { return _mm256_set1_pd(x); }
  static V load(const double* p) { return _mm256_loadu_pd(p); }
  static V load(const double* p, int64_t n) { return _mm256_maskload_pd(p, mask(n)); }
  static void store(double* p, V x) { _mm256_storeu_pd(p, x); }
  static void store(double* p, V x, int64_t n) { _mm256_maskstore_pd(p, mask(n), x); }
  static V add(V a, V b) { return _mm256_add_pd(a, b); }
  static V sub(V a, V b) { return _mm256_sub_pd(a, b); }
  static V mul(V a, V b) { return _mm256_mul_pd(a, b); }
  static V div(V a, V b) { return _mm256_div_pd(a, b); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
  static V max(V a, V b) { return _mm256_max_pd(a, b); }
  static V min(V a, V b) { return _mm256_min_pd(a, b); }
  static V round(V a) { return _mm256_round_pd(a, _MM_FROUND_TO_NEAREST_INT); }
  static V pow2(V n) {
    const __m256i i = _mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(n));
    return _mm256_castsi256_pd(
        _mm256_slli_epi64(_mm256_add_epi64(i, _mm256_set1_epi64x(1023)), 52));
  }
  static V less(V a, V b, V yes, V no) {
    return _mm256_blendv_pd(no, yes, _mm256_cmp_pd(a, b, _CMP_LT_OQ));
  }
};

#else

// Plain arrays: the meaning of the operations above, for any compiler and machine.
template <class T>
struct Reg {
  static constexpr int lanes = static_cast<int>(32 / sizeof(T));
  struct V {
    T lane[lanes];
  };
  template <class F>
  static V map(F f) {
    V y;
    for (int i = 0; i < lanes; ++i) y.lane[i] = f(i);
    return y;
  }
  static V set(T x) {
    return map([&](int) { return x; });
  }
  template <class S>
  static V load(const S* p) {
    return map([&](int i) { return static_cast<T>(p[i]); });
  }
  template <class S>
  static V load(const S* p, int64_t n) {
    return map([&](int i) { return i < n ? static_cast<T>(p[i]) : T(0); });
  }
  template <class S>
  static void store(S* p, V x) {
    for (int i = 0; i < lanes; ++i) p[i] = static_cast<S>(x.lane[i]);
  }
  template <class S>
  static void store(S* p, V x, int64_t n) {
    for (int i = 0; i < lanes && i < n; ++i) p[i] = static_cast<S>(x.lane[i]);
  }
  static V add(V a, V b) {
    return map([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static V sub(V a, V b) {
    return map([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static V mul(V a, V b) {
    return map([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static V div(V a, V b) {
    return map([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  static V fma(V a, V b, V c) {
    return map([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
  }
  static V max(V a, V b) {
    return map([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static V min(V a, V b) {
    return map([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static V round(V a) {
    return map([&](int i) { return std::nearbyint(a.lane[i]); });
  }
  static V pow2(V n) {
    return map([&](int i) {
      return std::isnan(n.lane[i]) ? n.lane[i] : std::ldexp(T(1), static_cast<int>(n.lane[i]));
    });
  }
  static V less(V a, V b, V yes, V no) {
    return map([&](int i) { return a.lane[i] < b.lane[i] ? yes.lane[i] : no.lane[i]; });
  }
};

#endif

}  // namespace PM_ISA
}  // namespace pyramoe::simd
