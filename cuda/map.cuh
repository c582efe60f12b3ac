// Flat maps: y[i] = f(a[i]) or f(a[i], b[i]) over ranges of any length.
//
// Such a kernel does a few operations a byte, so all that counts is how memory is used: a thread
// asks for kUnroll packs of 16 bytes of every input before it uses the first, so that a
// multiprocessor has tens of kilobytes on their way (bandwidth times latency is about 3 MB for the
// whole chip). Inputs and output may be the same memory: an element is read before it is written,
// by the same thread.
#pragma once

#include <type_traits>

#include "cuda/vec.cuh"

namespace pyramoe::gpu {

inline constexpr int kMapThreads = 256;
inline constexpr int kMapUnroll = 2;

// N neighbouring elements as they lie in memory, loaded and stored 16 bytes at a time (or all at
// once when they are fewer). [i] reads one as float; put() rounds N floats to the type.
template <class T, int N>
struct Pieces {  // float
  static constexpr int kPiece = N < 4 ? N : 4;
  T value[N];

  __device__ __forceinline__ float operator[](int i) const { return to_float(value[i]); }
  __device__ __forceinline__ void put(const float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) value[i] = from_float<T>(x[i]);
  }
  __device__ __forceinline__ void load(const T* p) {
#pragma unroll
    for (int i = 0; i < N; i += kPiece) {
      const Vec<T, kPiece> piece = load_vec<T, kPiece>(p + i);
#pragma unroll
      for (int j = 0; j < kPiece; ++j) value[i + j] = piece.v[j];
    }
  }
  __device__ __forceinline__ void store(T* p) const {
#pragma unroll
    for (int i = 0; i < N; i += kPiece) {
      Vec<T, kPiece> piece;
#pragma unroll
      for (int j = 0; j < kPiece; ++j) piece.v[j] = value[i + j];
      store_vec(p + i, piece);
    }
  }
  __device__ __forceinline__ void keep_packed() {}
};

// bf16 stays packed, two to a register: unpacking is one shift or mask, packing one instruction for
// two. Packs are of 8, or of 4 where the other operand is f32.
template <int N>
requires(N % 4 == 0) struct Pieces<Bf16, N> {
  static constexpr int kPiece = N < 8 ? N / 2 : 4;  // words
  uint32_t word[N / 2];

  __device__ __forceinline__ float operator[](int i) const {
    return __uint_as_float(i % 2 ? word[i / 2] & 0xffff0000u : word[i / 2] << 16);
  }
  __device__ __forceinline__ void put(const float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(x[i], x[i + 1]);
      word[i / 2] = *reinterpret_cast<const uint32_t*>(&pair);
    }
  }
  __device__ __forceinline__ void load(const Bf16* p) {
#pragma unroll
    for (int i = 0; i < N / 2; i += kPiece) {
      const auto piece = load_vec<uint32_t, kPiece>(reinterpret_cast<const uint32_t*>(p) + i);
#pragma unroll
      for (int j = 0; j < kPiece; ++j) word[i + j] = piece.v[j];
    }
  }
  __device__ __forceinline__ void store(Bf16* p) const {
#pragma unroll
    for (int i = 0; i < N / 2; i += kPiece) {
      Vec<uint32_t, kPiece> piece;
#pragma unroll
      for (int j = 0; j < kPiece; ++j) piece.v[j] = word[i + j];
      store_vec(reinterpret_cast<uint32_t*>(p) + i, piece);
    }
  }
  // The compiler forgets what it unpacked before: it would keep the floats, twice the registers,
  // where unpacking again costs next to nothing.
  __device__ __forceinline__ void keep_packed() {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) asm volatile("" : "+r"(word[i]));
  }
};

// Elements a thread takes at once: 16 bytes of the narrowest type.
template <class... T>
inline constexpr int kPackOf = static_cast<int>(16 / std::min({sizeof(T)...}));

inline bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// One element read on the device as double, whatever its floating dtype: factors, seeds.
struct Scalar {
  const void* data;
  DType type;

  explicit Scalar(const Tensor& x) : data(x.raw()), type(x.dtype()) {}
  __device__ double get() const {
    if (type == DType::f64) return *static_cast<const double*>(data);
    if (type == DType::f32) return *static_cast<const float*>(data);
    return to_float(*static_cast<const Bf16*>(data));
  }
};

// f is a small struct with a device operator(); one that reads a factor on the device does so in
// f.start(), once a thread.
template <int N, bool kTwo, class F, class Y, class A, class B>
__global__ void __launch_bounds__(kMapThreads)
    map_kernel(int64_t n, F f, Y* y, const A* a, const B* b) {
  if constexpr (requires { f.start(); }) f.start();
  const int64_t packs = n / N;
  const int64_t first = int64_t{blockIdx.x} * (kMapThreads * kMapUnroll) + threadIdx.x;
  Pieces<A, N> in_a[kMapUnroll];
  Pieces<B, N> in_b[kMapUnroll];
#pragma unroll
  for (int u = 0; u < kMapUnroll; ++u) {
    const int64_t pack = first + u * kMapThreads;
    if (pack < packs) {
      in_a[u].load(a + pack * N);
      if constexpr (kTwo) in_b[u].load(b + pack * N);
    }
  }
#pragma unroll
  for (int u = 0; u < kMapUnroll; ++u) {
    const int64_t pack = first + u * kMapThreads;
    if (pack < packs) {
      float value[N];
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if constexpr (kTwo) {
          value[i] = f(in_a[u][i], in_b[u][i]);
        } else {
          value[i] = f(in_a[u][i]);
        }
      }
      Pieces<Y, N> out;
      out.put(value);
      out.store(y + pack * N);
    } else if (pack == packs) {  // the n % N elements after the last whole pack
      for (int64_t i = packs * N; i < n; ++i) {
        if constexpr (kTwo) {
          y[i] = from_float<Y>(f(to_float(a[i]), to_float(b[i])));
        } else {
          y[i] = from_float<Y>(f(to_float(a[i])));
        }
      }
    }
  }
}

template <bool kTwo, class F, class Y, class A, class B>
void launch_map(int64_t n, F f, Y* y, const A* a, const B* b) {
  if (n == 0) return;
  constexpr int kPack = kTwo ? kPackOf<Y, A, B> : kPackOf<Y, A>;
  if (aligned16(y) && aligned16(a) && (!kTwo || aligned16(b))) {
    map_kernel<kPack, kTwo>
        <<<grid(n, int64_t{kPack} * kMapThreads * kMapUnroll), kMapThreads, 0, stream()>>>(n, f, y,
                                                                                           a, b);
  } else {
    map_kernel<1, kTwo>
        <<<grid(n, kMapThreads * kMapUnroll), kMapThreads, 0, stream()>>>(n, f, y, a, b);
  }
  PM_LAUNCHED();
}

// y[i] = f(a[i])
template <class Y, class A, class F>
void map(int64_t n, F f, Y* y, const A* a) {
  launch_map<false>(n, f, y, a, static_cast<const A*>(nullptr));
}
// y[i] = f(a[i], b[i])
template <class Y, class A, class B, class F>
void map(int64_t n, F f, Y* y, const A* a, const B* b) {
  launch_map<true>(n, f, y, a, b);
}

}  // namespace pyramoe::gpu
