#include "core/graph.h"

#include <utility>

#include "core/cuda_device.h"
#include "core/error.h"

namespace pyramoe {

void Graph::capture(Device device, int64_t bytes, std::function<void()> f, const Graph* memory_of) {
  PM_CHECK(!captured(), "Graph::capture: this graph is captured already");
  if (device.type == DeviceType::cuda) {
    void* shared = memory_of ? memory_of->cuda_.get() : nullptr;
    cuda_ = cuda_device::capture(device.index, bytes, f, shared);
  } else {
    f_ = std::move(f);
  }
}

void Graph::replay() const {
  PM_CHECK(captured(), "Graph::replay: nothing was captured");
  if (cuda_) {
    cuda_device::replay(cuda_.get());
  } else {
    f_();
  }
}

}  // namespace pyramoe
