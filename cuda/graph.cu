// Capture and replay of device work as a CUDA graph, and the arena its memory comes from.
//
// Capture runs in the strict global mode: whatever would make the host wait or read device memory
// fails there, at the line that does it. See core/graph.h for what a captured function may do.
#include <cuda_runtime.h>

#include <algorithm>
#include <mutex>

#include "core/cuda_device.h"
#include "cuda/arena.h"
#include "cuda/launch.cuh"

namespace pyramoe {
namespace gpu {
namespace {

constexpr int64_t kAlign = 512;
constexpr int64_t kLeastChunk = 32 << 20;

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

std::mutex mutex;  // guards what follows
std::vector<std::shared_ptr<Arena>>& arenas() {
  static auto* all = new std::vector<std::shared_ptr<Arena>>;  // outlives the last tensor
  return *all;
}
std::vector<void*>& freed_while_capturing() {
  static auto* all = new std::vector<void*>;
  return *all;
}
Arena* capturing = nullptr;

// An arena goes when its graph is gone (only the list still holds it) and its last block is freed.
void drop_unused_arenas() {
  std::erase_if(arenas(), [](const std::shared_ptr<Arena>& arena) {
    return arena.use_count() == 1 && arena->blocks() == 0;
  });
}

}  // namespace

Arena::~Arena() {
  for (const Chunk& chunk : chunks_) cudaFree(chunk.begin);
}

bool Arena::grow(int64_t bytes) {
  // The last bytes of a chunk stay unused, so that blocks of two chunks never touch.
  const int64_t size = round_up(std::max({bytes, next_chunk_, kLeastChunk}) + kAlign, 2 << 20);
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;  // cudaMalloc is safe here: it does
  PM_CUDA(cudaThreadExchangeStreamCaptureMode(&mode));        // not touch the captured stream
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(size));
  PM_CUDA(cudaThreadExchangeStreamCaptureMode(&mode));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return false;
  }
  PM_CUDA(error);
  chunks_.push_back({static_cast<char*>(data), size});
  bytes_ += size;
  next_chunk_ = std::max(kLeastChunk, bytes_ / 16);
  free_[static_cast<char*>(data)] = size - kAlign;
  return true;
}

void* Arena::alloc(int64_t bytes) {
  const int64_t size = round_up(bytes, kAlign);
  auto best = free_.end();
  for (int attempt = 0; attempt < 2 && best == free_.end(); ++attempt) {
    if (attempt == 1 && !grow(size)) return nullptr;
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if (it->second >= size && (best == free_.end() || it->second < best->second)) best = it;
    }
  }
  char* place = best->first;
  const int64_t left = best->second - size;
  free_.erase(best);
  if (left > 0) free_[place + size] = left;
  used_[place] = size;
  return place;
}

bool Arena::owns(const void* data) const {
  return std::any_of(chunks_.begin(), chunks_.end(), [&](const Chunk& chunk) {
    return data >= chunk.begin && data < chunk.begin + chunk.bytes;
  });
}

void Arena::free(void* data) {
  const auto used = used_.find(static_cast<char*>(data));
  if (used == used_.end()) return;
  auto [begin, size] = *used;
  used_.erase(used);
  auto next = free_.lower_bound(begin);
  if (next != free_.end() && begin + size == next->first) {
    size += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->second == begin) {
      previous->second += size;
      return;
    }
  }
  free_[begin] = size;
}

Arena* capturing_arena() { return capturing; }

bool free_in_arena(void* data) noexcept {
  const std::lock_guard lock(mutex);
  for (const auto& arena : arenas()) {
    if (!arena->owns(data)) continue;
    arena->free(data);
    drop_unused_arenas();
    return true;
  }
  if (capturing == nullptr) return false;
  freed_while_capturing().push_back(data);
  return true;
}

namespace {

struct Captured {
  int device = 0;
  cudaGraphExec_t exec = nullptr;
  std::shared_ptr<Arena> arena;

  ~Captured() {
    if (exec != nullptr) cudaGraphExecDestroy(exec);
    arena.reset();
    const std::lock_guard lock(mutex);
    drop_unused_arenas();
  }
};

void set_capturing(Arena* arena) {
  const std::lock_guard lock(mutex);
  capturing = arena;
}

// Ends a capture, well or badly: memory of before it that was freed meanwhile goes back now.
cudaError_t end_capture(cudaGraph_t* graph, int device) {
  const cudaError_t error = cudaStreamEndCapture(stream(), graph);
  set_capturing(nullptr);
  std::vector<void*> freed;
  freed.swap(freed_while_capturing());
  for (void* data : freed) cuda_device::free(data, device);
  return error;
}

}  // namespace
}  // namespace gpu

namespace cuda_device {

std::shared_ptr<void> capture(int index, int64_t bytes, const std::function<void()>& f,
                              void* memory_of) {
  using namespace gpu;
  PM_CHECK(capturing_arena() == nullptr, "capture: another capture is going on");
  trim(index);  // the eager run's memory makes room for the arena
  auto captured = std::make_shared<Captured>();
  captured->device = index;
  if (memory_of != nullptr) {
    captured->arena = static_cast<Captured*>(memory_of)->arena;
  } else {
    captured->arena = std::make_shared<Arena>(bytes);
    const std::lock_guard lock(mutex);
    arenas().push_back(captured->arena);
  }
  set_capturing(captured->arena.get());
  cudaGraph_t graph = nullptr;
  try {
    PM_CUDA(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeGlobal));
    f();
  } catch (...) {
    end_capture(&graph, index);
    cudaGetLastError();
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  PM_CUDA(end_capture(&graph, index));
  const cudaError_t error = cudaGraphInstantiate(&captured->exec, graph, 0);
  cudaGraphDestroy(graph);
  PM_CUDA(error);
  PM_CUDA(cudaGraphUpload(captured->exec, stream()));
  return captured;
}

bool capturing() { return gpu::capturing_arena() != nullptr; }

void replay(void* captured) {
  auto* graph = static_cast<gpu::Captured*>(captured);
  select(graph->device);
  PM_CUDA(cudaGraphLaunch(graph->exec, gpu::stream()));
}

}  // namespace cuda_device
}  // namespace pyramoe
