// Work recorded once and replayed: on a GPU one launch instead of hundreds.
//
// capture(f) runs the host side of f once and records what it hands to the device; replay() does
// the recorded work again, on the same memory. On the CPU replay() calls f.
//
// What f must keep to, so that a replay means what a call of f would:
// - it reads no device memory and copies nothing between host and device: what changes from step to
//   step is read by kernels from device tensors that the caller fills before a replay;
// - shapes, and every number it passes to a kernel, are the same in each call;
// - tensors from outside that it reads or writes live as long as the Graph. Tensors it allocates
//   and keeps (outputs) have the same address in each replay, which overwrites them.
#pragma once

#include <functional>
#include <memory>

#include "core/device.h"

namespace pyramoe {

class Graph {
 public:
  // Call f once before (kernels load and libraries set up at their first use), and give the bytes
  // that call needed at most, so that the graph's memory comes in one piece. Graphs of which
  // nothing is left when another begins may share one memory: name the first of them.
  void capture(Device device, int64_t bytes, std::function<void()> f,
               const Graph* memory_of = nullptr);
  bool captured() const { return cuda_ != nullptr || f_ != nullptr; }
  void replay() const;

 private:
  std::function<void()> f_;     // CPU
  std::shared_ptr<void> cuda_;  // the device's graph
};

}  // namespace pyramoe
