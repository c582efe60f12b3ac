// Expert weights in 8 or 4 bits, rounded after training: most of a MoE model's bytes are in
// experts, and each sees few tokens, so they are where bits are cheapest.
//
// Each 32 neighbours of a weight's last axis share one bf16 scale, their largest magnitude over the
// largest code; codes are rounded to nearest. 8.5 and 4.5 bits a weight, exact to compute from the
// packed tensors. Biases, routers and everything dense stay as they are.
#pragma once

#include "infer/run.h"

namespace pyramoe::infer {

// Rows of n weights as codes and scales.
struct PackedRows {
  int64_t bits = 0, n = 0;
  Tensor codes;   // (rows, ceil(n bits / 8)) u8; of 4 bits two a byte, the first below
  Tensor scales;  // (rows, ceil(n / 32)) bf16
  int64_t bytes() const { return codes.bytes() + scales.bytes(); }
};

//   x     (..., n) any floating dtype, on the CPU
//   bits  8 or 4
// Throws Error(checkpoint) for weights that are not finite.
PackedRows pack_rows(const Tensor& x, int64_t bits);
// The weights that the codes stand for, into x of the packed tensor's shape.
void unpack_rows(const PackedRows& packed, const Tensor& x);

// What a model's parameters take, as stored.
struct StorageBytes {
  int64_t expert_bits = 0;   // of an expert weight's code, or of its dtype
  int64_t expert_bytes = 0;  // weights and biases of all live experts, with scales
  int64_t total_bytes = 0;   // of the whole model
};

// Replaces every expert weight by what its 8 or 4 bits stand for; 0 leaves all as it is. The model
// computes in its own dtype as before: what comes out is that of packed weights, the memory is not.
// Throws Error(config) for other numbers of bits, or none of whose experts could be packed.
StorageBytes quantize_experts(LoadedRun& run, int64_t bits);

}  // namespace pyramoe::infer
