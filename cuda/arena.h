// The memory of one captured graph: blocks at addresses that every replay finds again.
//
// While a graph is captured, allocations come from its arena instead of the driver's pool. Kernels
// of a graph run in the order in which they were captured, so a block freed during capture may be
// handed to a later allocation, as in the eager run: the arena is as large as the eager peak.
// Best fit, neighbours joined; memory comes in chunks that live as long as the arena.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

namespace pyramoe::gpu {

class Arena {
 public:
  explicit Arena(int64_t first_chunk) : next_chunk_(first_chunk) {}
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  void* alloc(int64_t bytes);  // null when the device has no room left
  bool owns(const void* data) const;
  void free(void* data);
  int64_t blocks() const { return static_cast<int64_t>(used_.size()); }  // not yet freed

 private:
  bool grow(int64_t bytes);

  struct Chunk {
    char* begin;
    int64_t bytes;
  };
  int64_t next_chunk_, bytes_ = 0;
  std::vector<Chunk> chunks_;
  std::map<char*, int64_t> free_;  // by address; neighbours of one chunk never touch
  std::map<char*, int64_t> used_;
};

// The arena of the capture now going on, or null.
Arena* capturing_arena();
// Frees `data` if it lies in an arena, or keeps it for the end of a capture now going on.
bool free_in_arena(void* data) noexcept;

}  // namespace pyramoe::gpu
