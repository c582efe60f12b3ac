// What the blocks of a model keep in memory, measured in passes in which all of them are
// recomputed.
//
// A forward pass tells what a block leaves when only its input is kept; the second pass through it,
// in backward, what it leaves when everything is. The peak of each block's work is noted too, and
// that of what lies between. From these follows the peak of a step that recomputes other
// blocks (train/memory_plan.h). Bytes are those that tensors hold (core/device.h).
#pragma once

#include <algorithm>
#include <vector>

#include "core/device.h"

namespace pyramoe::nn {

class MemoryProbe {
 public:
  struct Block {
    int64_t recomputed =
        0;             // bytes held from its forward pass to its backward pass when recomputed
    int64_t kept = 0;  // and when not
    int64_t peak = 0;  // of its backward pass, the second forward pass included
  };

  MemoryProbe(Device device, int64_t blocks)
      : blocks_(static_cast<size_t>(blocks)), device_(device) {
    reset_device_peak_bytes(device);
  }

  // Runs the first or second forward pass of a block.
  template <class F>
  auto measure(int64_t block, bool second_pass, const F& forward) {
    Block& at = blocks_[static_cast<size_t>(block)];
    end_stage(block);
    const int64_t held = device_bytes(device_);
    auto result = forward();
    if (!second_pass) end_stage(-1);
    int64_t& most = second_pass ? at.kept : at.recomputed;
    most = std::max(most, device_bytes(device_) - held);
    return result;
  }
  // After a backward pass; the next pass may begin.
  void end_pass() { end_stage(-1); }

  const std::vector<Block>& blocks() const { return blocks_; }
  // Peak of what lies between forward and backward passes of blocks: the loss.
  int64_t peak_of_loss() const { return peak_of_loss_; }

 private:
  void end_stage(int64_t next) {
    int64_t& peak = stage_ < 0 ? peak_of_loss_ : blocks_[static_cast<size_t>(stage_)].peak;
    peak = std::max(peak, device_peak_bytes(device_));
    reset_device_peak_bytes(device_);
    stage_ = next;
  }

  std::vector<Block> blocks_;
  Device device_;
  int64_t peak_of_loss_ = 0;
  int64_t stage_ = -1;  // the block that is at work; -1: none
};

}  // namespace pyramoe::nn
