// The kernels that are bound by memory, one by one: each at a size that fills the chip, on memory
// it has not just touched, beside the bytes it cannot avoid.
#pragma once

#include "cli/bench_layer.h"

namespace pyramoe::bench {

struct MemoryOptions {
  int64_t tokens = 65536, d = 1024;            // of norms, maps and the optimizer (tokens * d)
  int64_t loss_tokens = 16384, vocab = 50304;  // of the losses and the embedding
};

// In the order of a step: embedding, norms, maps, losses, sums, optimizer.   dtype f32 or bf16
std::vector<KernelTime> time_memory_kernels(const MemoryOptions& options, Device device,
                                            DType dtype);

}  // namespace pyramoe::bench
