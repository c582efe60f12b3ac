// What all attention kernels share: where a head's rows lie, who is dropped, which paths there are.
//
// Three paths compute the same thing. `plain`: fp32 sums by the ordinary units, any type and size.
// `mma`: bf16, head dim to 128, the tensor cores of every GPU since sm_80. `hopper`: bf16, head
// dim 64 and 128, wgmma and TMA. attention.cu chooses. No path uses an atomic: each output element
// is one thread's sum over keys (or queries) in rising order, so two runs give equal bits.
#pragma once

#include "core/rng.h"
#include "cuda/launch.cuh"

namespace pyramoe::gpu::attention {

inline constexpr float kLog2e = 1.4426950408889634f;

// Token t of sequence b and head h starts at data + b * batch + t * row + h * dim.
template <class T>
struct Rows {
  T* data;
  int64_t batch, row;
  __device__ T* head(int64_t b, int64_t h, int64_t dim) const { return data + b * batch + h * dim; }
};

// Which probabilities are kept: the draw of core/kernels/attention.h. threshold = 0 keeps all.
struct Drop {
  uint32_t threshold = 0;
  float factor = 1;
  RngKey key{};
  uint64_t first_head = 0;  // first_sequence * H
  uint64_t heads = 0;
  uint64_t tokens = 0;

  __device__ bool on() const { return threshold != 0; }
  // The counter of a probability, for head `head` = b * H + h of this call.
  __device__ uint64_t id(uint64_t head, uint64_t query, uint64_t at_key) const {
    const uint64_t global =
        static_cast<uint64_t>(key.sequences_before()) * heads + first_head + head;
    return (global * tokens + query) * tokens + at_key;
  }
  // 1 / (1 - p) or 0.
  __device__ float operator()(uint64_t head, uint64_t query, uint64_t at_key) const {
    const uint64_t element = id(head, query, at_key);
    return random_u32(key.at_this_step(), element) >> 8 >= threshold ? factor : 0.0f;
  }
};

template <class T>
struct Forward {
  Rows<const T> q, k, v;
  Rows<T> y;
  float* lse;              // (B, H, queries), or null
  const int32_t* lengths;  // (B): the position of query 0; null = 0
  int batch, heads, queries, dim;
  int capacity;  // rows of k and v that exist
  float scale;
  Drop drop;
};

template <class T>
struct Backward {
  Rows<const T> q, k, v, y, dy;
  Rows<T> dq, dk, dv;
  const float* lse;  // (B, H, tokens)
  float* delta;      // (B, H, tokens): row sums of dy * y, scratch
  int batch, heads, tokens, dim;
  float scale;
  Drop drop;
};

// One block's share of a grid of (tiles, heads, sequences), tiles fastest. Causal rows at the end
// of a sequence have the most keys: with `last_first` they start first.
struct Place {
  int tile, h, b;
  int64_t head;  // b * H + h
  __device__ Place(int tiles, int heads, bool last_first) {
    const int64_t i = blockIdx.x;
    tile = static_cast<int>(i % tiles);
    if (last_first) tile = tiles - 1 - tile;
    head = i / tiles;
    h = static_cast<int>(head % heads);
    b = static_cast<int>(head / heads);
  }
};

template <class T>
void plain_forward(const Forward<T>& f);
template <class T>
void plain_backward(const Backward<T>& f);
// delta of all rows, for the plain and mma paths.
template <class T>
void row_delta(const Backward<T>& f);

void mma_forward(const Forward<Bf16>& f);
void mma_backward(const Backward<Bf16>& f);
inline constexpr int kMmaMaxDim = 128;

// New keys and values into the cache; then, for the few queries of a decode step, the answer too
// (true), or false where the caller must run one of the paths above.
template <class T>
bool decode(const Forward<T>& f, const T* qkv, T* cache);

bool hopper_takes(int dim, const void* qkv, const void* y);
void hopper_forward(const Forward<Bf16>& f);
void hopper_backward(const Backward<Bf16>& f);

}  // namespace pyramoe::gpu::attention
