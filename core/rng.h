// Counter-based random numbers (Philox 4x32-10; Salmon et al., SC 2011).
//
// A number is a pure function of who asks: (seed, purpose, step, layer, element id). No state is
// kept, so any rank, thread or device that asks for the same number gets the same number, and a
// resumed or recomputed step draws exactly what it drew before. The integer draws are bitwise
// equal on every device. This header compiles under nvcc too.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

#if defined(__CUDACC__)
#define PM_HOST_DEVICE __host__ __device__
#else
#define PM_HOST_DEVICE
#endif

namespace pyramoe {

// What the numbers are for. Part of checkpoint compatibility: add at the end, never renumber.
enum class RngPurpose : uint32_t {
  init = 1,
  dropout = 2,
  attention_dropout = 3,
  gate_jitter = 4,
  gate_rsample = 5,
  token_selection = 6,
  data_order = 7,
  synthetic_data = 8,
  sampling = 9,
  test = 10,
  weight_rounding = 11,
  expert_split = 12,
};

// Which numbers come next, in work that a GPU replays: the host writes it to device memory before
// each replay, and kernels add it to the step and the first row that they were recorded with.
struct RngNow {
  int64_t step = 0;
  int64_t first_sequence = 0;  // of the global batch
  int64_t first_row = 0;       // the same, in tokens
};

struct RngKey {
  uint64_t seed = 0;
  RngPurpose purpose = RngPurpose::test;
  uint32_t step = 0;   // optimizer step (all micro-batches of a step use distinct element ids)
  uint32_t layer = 0;  // layer, or any other small number that tells streams apart
  const RngNow* now = nullptr;  // device memory; null on the CPU, where nothing is replayed

  // For kernels of the device that `now` lies on: the key of this moment, and what to add to the
  // first row and the first sequence.
  PM_HOST_DEVICE RngKey at_this_step() const {
    RngKey key = *this;
    if (now) key.step += static_cast<uint32_t>(now->step);
    return key;
  }
  PM_HOST_DEVICE int64_t rows_before() const { return now ? now->first_row : 0; }
  PM_HOST_DEVICE int64_t sequences_before() const { return now ? now->first_sequence : 0; }
};

struct Philox4 {
  uint32_t v[4];
};

// a * b, and its upper half.
PM_HOST_DEVICE inline uint32_t wide_product(uint32_t a, uint32_t b, uint32_t& high) {
#if defined(__CUDA_ARCH__)  // nvcc adds a zero to the upper half of a 64-bit product in C++
  uint32_t low;
  asm("{ .reg .b64 p; mul.wide.u32 p, %2, %3; mov.b64 {%0, %1}, p; }"
      : "=r"(low), "=r"(high)
      : "r"(a), "r"(b));
  return low;
#else
  const uint64_t product = static_cast<uint64_t>(a) * b;
  high = static_cast<uint32_t>(product >> 32);
  return static_cast<uint32_t>(product);
#endif
}

// Four independent 32-bit words for counter `id` of the stream `key`.
PM_HOST_DEVICE inline Philox4 philox(const RngKey& key, uint64_t id) {
  uint32_t k0 = static_cast<uint32_t>(key.seed);
  uint32_t k1 = static_cast<uint32_t>(key.seed >> 32);
  // Purpose and layer share a word: 256 purposes, 2^24 layers.
  uint32_t c0 = static_cast<uint32_t>(id), c1 = static_cast<uint32_t>(id >> 32);
  uint32_t c2 = key.step, c3 = static_cast<uint32_t>(key.purpose) << 24 ^ key.layer;
  for (int round = 0; round < 10; ++round) {
    uint32_t high0, high1;
    const uint32_t low0 = wide_product(c0, 0xD2511F53u, high0);
    const uint32_t low1 = wide_product(c2, 0xCD9E8D57u, high1);
    c0 = high1 ^ c1 ^ k0;
    c2 = high0 ^ c3 ^ k1;
    c1 = low1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// The 32-bit word of element `id`: word id % 4 of counter id / 4, so that a vectorised kernel
// draws four elements at once and a scalar one gets the same.
PM_HOST_DEVICE inline uint32_t random_u32(const RngKey& key, uint64_t id) {
  return philox(key, id >> 2).v[id & 3];
}

// Uniform in [0, 1): 24 random bits, exact in float.
PM_HOST_DEVICE inline float uniform_from(uint32_t word) {
  return static_cast<float>(word >> 8) * (1.0f / 16777216.0f);
}
PM_HOST_DEVICE inline float random_uniform(const RngKey& key, uint64_t id) {
  return uniform_from(random_u32(key, id));
}

// Standard normal by Box-Muller in double (used on the host for initial values).
inline double random_normal(const RngKey& key, uint64_t id) {
  const Philox4 w = philox(key, id);
  const double u = (static_cast<double>(w.v[0]) + 1.0) * (1.0 / 4294967296.0);  // (0, 1]
  const double t = static_cast<double>(w.v[1]) * (1.0 / 4294967296.0);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586476925 * t);
}

// 64-bit FNV-1a, then a finaliser: turns a parameter's name into an element-id space of its own.
inline uint64_t hash_name(std::string_view name) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (char c : name) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  h ^= h >> 33;
  h *= 0xff51afd7ed558ccdull;
  return h ^ (h >> 33);
}

}  // namespace pyramoe
