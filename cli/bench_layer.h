// pyramoe bench layer: one layer of experts alone, forward and backward, on random tokens.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace pyramoe::bench {

struct LayerOptions {
  std::string device = "auto", dtype = "f32", skew = "uniform";
  int64_t tokens = 4096, d = 384, experts = 32, top_k = 1, hidden = 0, steps = 10, warmup = 2;
  double capacity = 0;
  bool json = false, plain_router = false, kernels = true;

  int64_t hidden_size() const { return hidden > 0 ? hidden : 4 * d; }
};

void add_layer_bench(CLI::App& bench);

// One kernel of the layer at work on the layer's shapes: how long it took, what it had to do.
struct KernelTime {
  std::string name;
  double seconds, bytes, flops;
};
// On a GPU, each kernel alone with a cold L2, in the order of a step.
std::vector<KernelTime> time_layer_kernels(const LayerOptions& options, Device device, DType dtype,
                                           const Tensor& x, const Tensor& router);

// Seconds of one call: a graph of `calls` calls is replayed, the median of the replays counts.
double replay_seconds(Device device, int64_t calls, int64_t replays,
                      const std::function<void()>& call);
// Fills y with independent numbers of mean 0 and this standard deviation, on y's device.
void fill_random(Tensor y, double std, uint32_t stream);

}  // namespace pyramoe::bench
