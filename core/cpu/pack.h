// Rows of numbers, one register at a time: eight floats or four doubles.
//
// `each_pack` walks a row in whole packs and one padded part at its end; `sum_packs` adds in four
// chains joined in a fixed order, so a sum depends on the row's length and on nothing else. A bf16
// row is read and written through float packs. Kernels here are written once for all dtypes.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/dtype.h"

namespace pyramoe::kernels::cpu {

template <class A>
struct PackOf {
  typedef A type __attribute__((vector_size(32)));
};
template <class A>
using Pack = typename PackOf<A>::type;
template <class A>
inline constexpr int64_t kLanes = 32 / static_cast<int64_t>(sizeof(A));

using WordPack = Pack<uint32_t>;
typedef uint16_t HalfPack __attribute__((vector_size(16)));

// Where a pack lies in its row: all lanes, or the first `count` of them.
struct Whole {
  int64_t i;
};
struct Part {
  int64_t i, count;
};

template <class A>
Pack<A> splat(A value) {
  return Pack<A>{} + value;
}

// ---- loads and stores; lanes past a Part read as zero and are not written

template <class T>
Pack<Acc<T>> load(const T* x, Whole at) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    HalfPack half;
    std::memcpy(&half, x + at.i, sizeof half);
    return std::bit_cast<Pack<float>>(__builtin_convertvector(half, WordPack) << 16);
  } else {
    Pack<T> y;
    std::memcpy(&y, x + at.i, sizeof y);
    return y;
  }
}

template <class T>
Pack<Acc<T>> load(const T* x, Part at) {
  T padded[kLanes<Acc<T>>] = {};
  std::memcpy(static_cast<void*>(padded), x + at.i, static_cast<size_t>(at.count) * sizeof(T));
  return load(padded, Whole{0});
}

template <class T>
void store(T* y, Whole at, Pack<Acc<T>> value) {
  if constexpr (std::is_same_v<T, BFloat16>) {  // round to nearest even; NaN stays NaN
    const WordPack u = std::bit_cast<WordPack>(value);
    const auto nan = value != value;
    const WordPack bits = nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const HalfPack half = __builtin_convertvector(bits, HalfPack);
    std::memcpy(static_cast<void*>(y + at.i), &half, sizeof half);
  } else {
    std::memcpy(y + at.i, &value, sizeof value);
  }
}

template <class T>
void store(T* y, Part at, Pack<Acc<T>> value) {
  T padded[kLanes<Acc<T>>];
  store(padded, Whole{0}, value);
  std::memcpy(static_cast<void*>(y + at.i), padded, static_cast<size_t>(at.count) * sizeof(T));
}

// x with zero in the lanes past a Part.
template <class A>
Pack<A> masked(Pack<A> x, Whole) {
  return x;
}
template <class A>
Pack<A> masked(Pack<A> x, Part at) {
  for (int64_t j = at.count; j < kLanes<A>; ++j) x[j] = 0;
  return x;
}

// ---- loops over [begin, end)

// f(at) for every pack, in order.
template <class A, class F>
void each_pack(int64_t begin, int64_t end, F&& f) {
  int64_t i = begin;
  for (; i + kLanes<A> <= end; i += kLanes<A>) f(Whole{i});
  if (i < end) f(Part{i, end - i});
}

// Sum over all lanes, in one order.
template <class A>
A sum_lanes(Pack<A> x) {
  A lane[kLanes<A>];
  std::memcpy(lane, &x, sizeof x);
  for (int64_t width = kLanes<A> / 2; width > 0; width /= 2) {
    for (int64_t j = 0; j < width; ++j) lane[j] += lane[j + width];
  }
  return lane[0];
}

// Sum of f(at) over all packs; f must give zero in the lanes past a Part.
template <class A, class F>
A sum_packs(int64_t begin, int64_t end, F&& f) {
  constexpr int64_t w = kLanes<A>;
  Pack<A> s0{}, s1{}, s2{}, s3{};
  int64_t i = begin;
  for (; i + 4 * w <= end; i += 4 * w) {
    s0 += f(Whole{i});
    s1 += f(Whole{i + w});
    s2 += f(Whole{i + 2 * w});
    s3 += f(Whole{i + 3 * w});
  }
  for (; i + w <= end; i += w) s0 += f(Whole{i});
  if (i < end) s1 += f(Part{i, end - i});
  return sum_lanes<A>((s0 + s1) + (s2 + s3));
}

// Largest element of x[begin, end), -inf for none. A NaN may be passed over; sums find it.
template <class T>
Acc<T> max_of(const T* x, int64_t begin, int64_t end) {
  using A = Acc<T>;
  constexpr int64_t w = kLanes<A>;
  Pack<A> m0 = splat<A>(-std::numeric_limits<A>::infinity()), m1 = m0;
  int64_t i = begin;
  for (; i + 2 * w <= end; i += 2 * w) {
    const Pack<A> a = load(x, Whole{i}), b = load(x, Whole{i + w});
    m0 = a > m0 ? a : m0;
    m1 = b > m1 ? b : m1;
  }
  m0 = m1 > m0 ? m1 : m0;
  A lane[w];
  std::memcpy(lane, &m0, sizeof m0);
  A top = lane[0];
  for (int64_t j = 1; j < w; ++j) top = lane[j] > top ? lane[j] : top;
  for (; i < end; ++i) {
    const A a = static_cast<A>(x[i]);
    top = a > top ? a : top;
  }
  return top;
}

// ---- functions

// e^x. Float: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2], within 2 ulp; results below 2.5e-38
// are zero.
inline Pack<float> exp_pack(Pack<float> x) {
  const Pack<float> shift = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Pack<float> shifted = x * 1.44269504f + shift;
  const Pack<float> n = shifted - shift;
  Pack<float> r = x - n * 0.693359375f;  // the high part of ln 2 has 9 bits: exact products
  r = r + n * 2.12194440e-4f;
  Pack<float> p = splat(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * (r * r) + r + 1.0f;
  const WordPack half_scale = (std::bit_cast<WordPack>(shifted) + 126u) << 23;  // 2^(n - 1)
  Pack<float> y = p * std::bit_cast<Pack<float>>(half_scale) * 2.0f;
  y = x < -86.6f ? splat(0.0f) : y;
  y = x > 88.722f ? splat(std::numeric_limits<float>::infinity()) : y;
  return x != x ? x : y;
}
inline Pack<double> exp_pack(Pack<double> x) {
  double lane[kLanes<double>];
  std::memcpy(lane, &x, sizeof x);
  for (double& v : lane) v = std::exp(v);
  std::memcpy(&x, lane, sizeof x);
  return x;
}

template <class A>
Pack<A> sqrt_pack(Pack<A> x) {
  for (int64_t j = 0; j < kLanes<A>; ++j) x[j] = std::sqrt(x[j]);
  return x;
}

// GELU in GPT-2's tanh form, written with the logistic function: 0.5 (1 + tanh u) = 1 / (1 +
// e^-2u), which keeps its relative precision where tanh is near -1.
template <class A>
struct Gelu {
  static constexpr A kTwice = static_cast<A>(1.5957691216057307117597842397375);  // 2 sqrt(2 / pi)
  static constexpr A kCubic = static_cast<A>(0.044715);

  // e^-2u, u = sqrt(2 / pi) (x + 0.044715 x^3)
  static Pack<A> decay(Pack<A> x) { return exp_pack(x * (x * x * (-kTwice * kCubic) - kTwice)); }
  static Pack<A> value(Pack<A> x) { return x / (A{1} + decay(x)); }
  // With s = 1 / (1 + e), 1 - s is e s: no digits are lost where s is near 1. Beyond |x| = 8 the
  // slope is 0 or 1 to the last bit in float (12 in double), and e stays finite.
  static Pack<A> slope(Pack<A> x) {
    constexpr A far = sizeof(A) == 8 ? 12 : 8;
    x = x < -far ? splat(-far) : x;
    x = x > far ? splat(far) : x;
    const Pack<A> e = decay(x), s = A{1} / (A{1} + e);
    return s + s * (e * s) * (x * (x * x * (3 * kTwice * kCubic) + kTwice));
  }
};

// Elements in one piece of work of an element-wise kernel: 64 KiB of floats, whole packs.
inline constexpr int64_t kGrain = 16384;

// Rows in one piece of work over rows of `width` elements.
inline int64_t rows_grain(int64_t width) { return width >= kGrain ? 1 : kGrain / (width + 1) + 1; }

}  // namespace pyramoe::kernels::cpu
