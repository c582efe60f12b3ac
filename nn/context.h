// What a forward pass may read besides its input, and the side results it leaves. Nothing in it
// has a gradient.
#pragma once

#include <cstdint>
#include <vector>

#include "core/rng.h"
#include "core/tensor.h"
#include "nn/kv_cache.h"

namespace pyramoe::nn {

// What a layer of experts did with its tokens. The numbers stay on the device: who reads them makes
// the host wait.
struct LayerStat {
  int64_t layer = 0;
  int64_t tokens = 0;
  int64_t choices = 0;  // tokens times choices a token
  Tensor load;          // (E) i32: choices per expert, before drops
  Tensor kept;          // (1) i32: choices that found room
  Tensor balance_loss;  // (1), undefined where there is none
  Tensor z_loss;
  Tensor expert;       // (N, k) i32, kept only when Context::keep_choices
  Tensor probability;  // (N, E), kept only when Context::keep_probabilities

  int64_t dropped() const { return choices - static_cast<int64_t>(kept.item()); }
};

struct Context {
  bool training = false;        // dropout, gate noise, token dropping
  uint64_t seed = 0;            // of the run
  int64_t step = 0;             // optimizer step, for random numbers
  int64_t first_sequence = 0;   // row 0 is position 0 of this sequence of the global batch
  const RngNow* now = nullptr;  // of work that is replayed; step and first_sequence are then 0
  int64_t batch = 0;            // B: the input has N = B * T rows
  int64_t length = 0;           // T
  int64_t layer = 0;            // block now running, set by Gpt
  Tensor positions;  // (B * T) i32 on the tokens' device; undefined: worked out from the rest
  bool keep_choices = false;        // keep which expert every token chose
  bool keep_probabilities = false;  // and what the router gave to each expert
  KvCache* cache = nullptr;         // decoding: positions start at cache->lengths
  std::vector<LayerStat> stats;

  int64_t first_token() const { return first_sequence * length; }
  RngKey key(RngPurpose purpose) const {
    return {seed, purpose, static_cast<uint32_t>(step), static_cast<uint32_t>(layer), now};
  }
};

}  // namespace pyramoe::nn
