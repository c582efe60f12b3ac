// Activation checkpointing by budget: which blocks to recompute so that a step stays under a limit
// (train.memory_limit), from what one step with all of them recomputed measured.
//
// A block that is kept instead of recomputed holds kept - recomputed bytes more from its forward
// pass to its backward pass, so every stage in between has that much more; nothing else changes.
// Blocks that save most are recomputed first; of equal ones the first of the model, since their
// second pass comes when the others' activations are gone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nn/memory_probe.h"

namespace pyramoe::train {

// "60GB", "512 MiB" or a plain number, in bytes; -1 when it is nothing of the kind.
int64_t bytes_of(const std::string& text);

// Measurements of one pass, which ranks may join (the largest of each number counts for all).
struct StepMemory {
  std::vector<nn::MemoryProbe::Block> blocks;
  int64_t peak_of_loss = 0;

  // Of a step that recomputes these blocks: when the loss is found, and at most. The second is a
  // little too high, by what only a second forward pass needs.
  int64_t peak_at_loss(const std::vector<bool>& recomputed) const;
  int64_t peak(const std::vector<bool>& recomputed) const;
  // Blocks in the order in which they are chosen.
  std::vector<size_t> order() const;
};

// The first `count` blocks of the order.
std::vector<bool> recompute_first(const StepMemory& memory, size_t count);
// The fewest blocks with which the loss is found in at most `bytes`, and a step takes no more than
// `most`; all, where none do.
size_t fewest_recomputed(const StepMemory& memory, int64_t bytes, int64_t most);

// A fiftieth of the limit is left for what differs between steps (how tokens are routed) and for
// gaps between the blocks of a captured step.
inline constexpr int64_t kShareLeftFree = 50;

}  // namespace pyramoe::train
