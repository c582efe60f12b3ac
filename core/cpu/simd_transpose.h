// Transposes a square of native registers in place, without touching memory.
//
// log2(lanes) rounds of two-register shuffles; used to read row-major weights in column order.
#pragma once

#include "core/cpu/simd_register.h"

namespace pyramoe::simd {
inline namespace PM_ISA {

template <class T>
inline void transpose(typename Reg<T>::V (&r)[Reg<T>::lanes]);

#if defined(PM_ISA_AVX512)

template <>
inline void transpose<float>(__m512 (&r)[16]) {
  __m512 t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16;
       i += 4) {  // r[i + c]: in each 128-bit quarter q, column 4 q + c of 4 rows
    const auto lo = [](__m512 a, __m512 b) {
      return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
    };
    const auto hi = [](__m512 a, __m512 b) {
      return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
    };
    r[i] = lo(t[i], t[i + 2]);
    r[i + 1] = hi(t[i], t[i + 2]);
    r[i + 2] = lo(t[i + 1], t[i + 3]);
    r[i + 3] = hi(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 16
  for (int c = 0; c < 4; ++c) {  // gathers quarters {0, 2} and {1, 3} of row groups, then all four
    const __m512 even_low = _mm512_shuffle_f32x4(r[c], r[c + 4], 0x88);
    const __m512 odd_low = _mm512_shuffle_f32x4(r[c], r[c + 4], 0xdd);
    const __m512 even_high = _mm512_shuffle_f32x4(r[c + 8], r[c + 12], 0x88);
    const __m512 odd_high = _mm512_shuffle_f32x4(r[c + 8], r[c + 12], 0xdd);
    t[c] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
    t[c + 8] = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
    t[c + 4] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
    t[c + 12] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

template <>
inline void transpose<double>(__m512d (&r)[8]) {
  __m512d t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm512_unpacklo_pd(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_pd(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int c = 0; c < 2; ++c) {
    const __m512d even_low = _mm512_shuffle_f64x2(t[c], t[c + 2], 0x88);
    const __m512d odd_low = _mm512_shuffle_f64x2(t[c], t[c + 2], 0xdd);
    const __m512d even_high = _mm512_shuffle_f64x2(t[c + 4], t[c + 6], 0x88);
    const __m512d odd_high = _mm512_shuffle_f64x2(t[c + 4], t[c + 6], 0xdd);
    r[c] = _mm512_shuffle_f64x2(even_low, even_high, 0x88);
    r[c + 4] = _mm512_shuffle_f64x2(even_low, even_high, 0xdd);
    r[c + 2] = _mm512_shuffle_f64x2(odd_low, odd_high, 0x88);
    r[c + 6] = _mm512_shuffle_f64x2(odd_low, odd_high, 0xdd);
  }
}

#elif defined(PM_ISA_AVX2)

template <>
inline void transpose<float>(__m256 (&r)[8]) {
  __m256 t[8], s[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; i += 4) {
    s[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    s[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    s[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    s[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
#pragma GCC unroll 8
  for (int c = 0; c < 4; ++c) {
    r[c] = _mm256_permute2f128_ps(s[c], s[c + 4], 0x20);
    r[c + 4] = _mm256_permute2f128_ps(s[c], s[c + 4], 0x31);
  }
}

template <>
inline void transpose<double>(__m256d (&r)[4]) {
  const __m256d a = _mm256_unpacklo_pd(r[0], r[1]), b = _mm256_unpackhi_pd(r[0], r[1]);
  const __m256d c = _mm256_unpacklo_pd(r[2], r[3]), d = _mm256_unpackhi_pd(r[2], r[3]);
  r[0] = _mm256_permute2f128_pd(a, c, 0x20);
  r[1] = _mm256_permute2f128_pd(b, d, 0x20);
  r[2] = _mm256_permute2f128_pd(a, c, 0x31);
  r[3] = _mm256_permute2f128_pd(b, d, 0x31);
}

#else

template <class T>
inline void transpose(typename Reg<T>::V (&r)[Reg<T>::lanes]) {
  for (int i = 0; i < Reg<T>::lanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const T x = r[i].lane[j];
      r[i].lane[j] = r[j].lane[i];
      r[j].lane[i] = x;
    }
  }
}

#endif

}  // namespace PM_ISA
}  // namespace pyramoe::simd
