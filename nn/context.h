// What a forward pass may read besides its input, and the side results it leaves. Nothing in it
// has a gradient.
#pragma once

#include <cstdint>
#include <vector>

#include "core/rng.h"
#include "core/tensor.h"
#include "nn/kv_cache.h"

namespace pyramoe::nn {

// What a layer of experts did with its tokens.
struct LayerStat {
  int64_t layer = 0;
  int64_t tokens = 0;
  Tensor load;          // (E) i32: choices per expert, before drops
  int64_t dropped = 0;  // choices that found no room
  double balance_loss = 0;
  double z_loss = 0;
  Tensor expert;  // (N, k) i32, kept only when Context::keep_choices
};

struct Context {
  bool training = false;       // dropout, gate noise, token dropping
  uint64_t seed = 0;           // of the run
  int64_t step = 0;            // optimizer step, for random numbers
  int64_t first_sequence = 0;  // row 0 is position 0 of this sequence of the global batch
  int64_t batch = 0;           // B: the input has N = B * T rows
  int64_t length = 0;          // T
  int64_t layer = 0;           // block now running, set by Gpt
  bool keep_choices = false;   // keep which expert every token chose
  KvCache* cache = nullptr;    // decoding: positions start at cache->lengths
  std::vector<LayerStat> stats;

  int64_t first_token() const { return first_sequence * length; }
  RngKey key(RngPurpose purpose) const {
    return {seed, purpose, static_cast<uint32_t>(step), static_cast<uint32_t>(layer)};
  }
};

}  // namespace pyramoe::nn
