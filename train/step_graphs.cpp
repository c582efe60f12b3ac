// Which steps a GPU replays, and how: each micro-batch, and the update, as one recorded graph
// (core/graph.h) instead of hundreds of launches.
//
// What differs between replays is read by kernels from device memory that the host fills before:
// tokens, targets, learning rate and clip factor, and what random numbers are counted from
// (RngNow).
#include <cstdio>

#include "train/trainer.h"

namespace pyramoe::train {
namespace {

// The dense form of dispatch asks the device for its sizes, experts that move change them, and
// forced balance counts on from the micro-batch before.
bool same_every_step(const moe::ModelConfig& m) {
  return m.budget == 0 && !m.force_balance && m.dispatch == "segments";
}

// Whether a step draws random numbers. (Those that round weights have their step from StepScalars.)
bool draws_numbers(const moe::ModelConfig& m) {
  const bool random_drops = m.capacity_factor > 0 && m.drop_by == "random";
  return m.dropout > 0 || m.noise != "none" || random_drops;
}

}  // namespace

void Trainer::prepare_graphs() {
  graphs_ =
      device_.type == DeviceType::cuda && config_.train.graph && same_every_step(config_.model);
  if (graphs_ && draws_numbers(config_.model)) rng_now_ = Tensor::zeros({3}, DType::i64, device_);
}

// The first run of a piece of work sets up what it needs, the second is captured, and from then on
// it is replayed. All micro-batches share one memory: nothing of one is left when the next begins.
void Trainer::run(StepGraph& graph, const std::function<void()>& work) {
  if (!graphs_ || dumping()) return work();
  if (graph.bytes < 0) {
    const int64_t before = device_bytes(device_);
    work();
    graph.bytes = device_peak_bytes(device_) - before;
    return;
  }
  if (!graph.graph.captured()) {
    const Graph* memory = nullptr;
    for (const StepGraph* other : {&first_graph_[0], &first_graph_[1]}) {
      if (other->graph.captured()) memory = &other->graph;
    }
    try {
      graph.graph.capture(device_, graph.bytes, work, memory);
    } catch (const Error& error) {  // nothing has run: the same work goes on kernel by kernel
      std::fprintf(stderr, "steps are not captured: %s\n", error.what());
      graphs_ = false;
      return work();
    }
  }
  graph.graph.replay();
}

}  // namespace pyramoe::train
