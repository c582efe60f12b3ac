// Vectors of 64 bytes (16 floats or 8 doubles) and the functions kernels need on them.
//
// The width is a promise, not a hint: sums over lanes use one fixed tree of 64-byte vectors on
// every instruction set, so a kernel written with Vec gives the same bits everywhere. bf16 is
// loaded into and stored from float vectors. exp is good to 2 ulp; gelu and its slope to a few (16
// in gelu's small tail, where the tanh form has no digits left).
#pragma once

#include "core/cpu/simd_register.h"

// A call would pass vectors through memory, at several times the cost of the work.
#define PM_INLINE [[gnu::always_inline]] inline

namespace pyramoe::simd {
inline namespace PM_ISA {

// T is float or double. Loops over whole vectors end with one partial load and store.
template <class T>
struct Vec {
  using R = Reg<T>;
  static constexpr int lanes = static_cast<int>(64 / sizeof(T));
  static constexpr int parts = lanes / R::lanes;
  typename R::V part[parts];

  Vec() = default;
  explicit Vec(T x) {
    for (int i = 0; i < parts; ++i) part[i] = R::set(x);
  }
  template <class S>  // S is T, or BFloat16 where T is float
  static Vec load(const S* p) {
    Vec y;
    for (int i = 0; i < parts; ++i) y.part[i] = R::load(p + i * R::lanes);
    return y;
  }
  // The first n elements, 0 <= n <= lanes; zeros after them. Reads nothing beyond.
  template <class S>
  static Vec load(const S* p, int64_t n) {
    if (n >= lanes) return load(p);
    Vec y;
    for (int i = 0; i < parts; ++i) y.part[i] = R::load(p + i * R::lanes, count(n, i));
    return y;
  }
  template <class S>
  void store(S* p) const {
    for (int i = 0; i < parts; ++i) R::store(p + i * R::lanes, part[i]);
  }
  template <class S>
  void store(S* p, int64_t n) const {
    if (n >= lanes) return store(p);
    for (int i = 0; i < parts; ++i) R::store(p + i * R::lanes, part[i], count(n, i));
  }

 private:
  static int64_t count(int64_t n, int i) {
    const int64_t rest = n - i * R::lanes;
    return rest < 0 ? 0 : rest > R::lanes ? R::lanes : rest;
  }
};

template <class T, class F>
PM_INLINE Vec<T> map(F f) {
  Vec<T> y;
  for (int i = 0; i < Vec<T>::parts; ++i) y.part[i] = f(i);
  return y;
}

template <class T>
PM_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) {
  return map<T>([&](int i) { return Reg<T>::add(a.part[i], b.part[i]); });
}
template <class T>
PM_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) {
  return map<T>([&](int i) { return Reg<T>::sub(a.part[i], b.part[i]); });
}
template <class T>
PM_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) {
  return map<T>([&](int i) { return Reg<T>::mul(a.part[i], b.part[i]); });
}
template <class T>
PM_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) {
  return map<T>([&](int i) { return Reg<T>::div(a.part[i], b.part[i]); });
}
template <class T>  // a * b + c, rounded once
PM_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return map<T>([&](int i) { return Reg<T>::fma(a.part[i], b.part[i], c.part[i]); });
}
template <class T>  // b where either is not a number
PM_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  return map<T>([&](int i) { return Reg<T>::max(a.part[i], b.part[i]); });
}
template <class T>
PM_INLINE Vec<T> min(Vec<T> a, Vec<T> b) {
  return map<T>([&](int i) { return Reg<T>::min(a.part[i], b.part[i]); });
}
template <class T>
PM_INLINE Vec<T> round(Vec<T> a) {
  return map<T>([&](int i) { return Reg<T>::round(a.part[i]); });
}
template <class T>  // a < b ? yes : no, lane by lane
PM_INLINE Vec<T> less(Vec<T> a, Vec<T> b, Vec<T> yes, Vec<T> no) {
  return map<T>([&](int i) { return Reg<T>::less(a.part[i], b.part[i], yes.part[i], no.part[i]); });
}

// Adds lanes (i, i + 8), then 4, 2, 1 apart: one order on every machine.
template <class T>
PM_INLINE T sum(Vec<T> a) {
  T lane[Vec<T>::lanes];
  a.store(lane);
  for (int half = Vec<T>::lanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

// c[0] + c[1] x + c[2] x² + …
template <class T, int N>
PM_INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[N]) {
  Vec<T> y(c[N - 1]);
  for (int i = N - 2; i >= 0; --i) y = fma(y, x, Vec<T>(c[i]));
  return y;
}

// Constants of exp: a polynomial through Chebyshev nodes of the reduced range.
template <class T>
struct ExpTable;

template <>
struct ExpTable<float> {
  static constexpr float low = -104.0f, high = 89.0f;
  static constexpr float log2_e = 1.44269502e+00f;
  static constexpr float ln2_high = 0.693115234375f, ln2_low = 3.194618495e-05f;
  static constexpr float terms[] = {5.000000000e-01f, 1.666657606e-01f, 4.166655346e-02f,
                                    8.363333082e-03f, 1.392637600e-03f};
};

template <>
struct ExpTable<double> {
  static constexpr double low = -746.0, high = 710.0;
  static constexpr double log2_e = 1.44269504088896339e+00;
  static constexpr double ln2_high = 6.93147180485539138e-01, ln2_low = 7.44061711001239685e-11;
  static constexpr double terms[] = {
      5.00000000000000000e-01, 1.66666666666666713e-01, 4.16666666666666713e-02,
      8.33333333332598493e-03, 1.38888888888836419e-03, 1.98412698753421414e-04,
      2.48015873259201627e-05, 2.75572547404054155e-06, 2.75572731719410790e-07,
      2.51054909069866965e-08, 2.09148825634692007e-09};
};

template <class T>
PM_INLINE Vec<T> exp(Vec<T> x) {
  using E = ExpTable<T>;
  x = min(Vec<T>(E::high), max(Vec<T>(E::low), x));
  const Vec<T> n = round(x * Vec<T>(E::log2_e));
  const Vec<T> zero(T(0));
  Vec<T> r = fma(zero - n, Vec<T>(E::ln2_high), x);
  r = fma(zero - n, Vec<T>(E::ln2_low), r);
  const Vec<T> y = fma(r * r, polynomial(r, E::terms), r) + Vec<T>(T(1));
  // 2^n in two steps, so that results near both ends of the range stay exact.
  const Vec<T> half = round(n * Vec<T>(T(0.5)));
  const auto pow2 = [](Vec<T> e) { return map<T>([&](int i) { return Reg<T>::pow2(e.part[i]); }); };
  return y * pow2(half) * pow2(n - half);
}

// gelu(x) = x/2 (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x³).
template <class T>
struct GeluTable {
  static constexpr T minus_two_c = T(-1.5957691216057307117597842397375);
  static constexpr T cubic = T(0.044715);
};

template <class T>
PM_INLINE Vec<T> gelu(Vec<T> x) {
  using G = GeluTable<T>;
  const Vec<T> one(T(1));
  const Vec<T> u = x * fma(Vec<T>(G::cubic) * x, x, one);
  return x / (one + exp(Vec<T>(G::minus_two_c) * u));
}

// d gelu / dx
template <class T>
PM_INLINE Vec<T> gelu_slope(Vec<T> x) {
  using G = GeluTable<T>;
  const Vec<T> one(T(1)), square = x * x;
  const Vec<T> u = x * fma(Vec<T>(G::cubic), square, one);
  // 1 - s as e s keeps its digits; the bound keeps e s finite where s is tiny.
  const Vec<T> e = min(Vec<T>(T(1e30)), exp(Vec<T>(G::minus_two_c) * u));
  const Vec<T> s = one / (one + e);
  const Vec<T> du = fma(Vec<T>(T(3) * G::cubic), square, one) * Vec<T>(-G::minus_two_c);
  return fma(x * s * (e * s), du, s);
}

}  // namespace PM_ISA
}  // namespace pyramoe::simd
