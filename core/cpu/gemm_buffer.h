// Scratch memory that a thread keeps: grows, never shrinks, and lies in huge pages where it can.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace pyramoe::gemm {

class Buffer {
 public:
  // Room for `count` elements, uninitialised; what get() gave before may be gone.
  template <class T>
  T* get(int64_t count) {
    constexpr int64_t page = 2 << 20;
    const int64_t bytes = (count * static_cast<int64_t>(sizeof(T)) + page - 1) / page * page;
    if (bytes > bytes_) {
      memory_.reset();
      memory_.reset(std::aligned_alloc(page, static_cast<size_t>(bytes)));
      bytes_ = memory_ ? bytes : 0;
      if (!memory_) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
      madvise(memory_.get(), static_cast<size_t>(bytes), MADV_HUGEPAGE);
#endif
    }
    return static_cast<T*>(memory_.get());
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> memory_;
  int64_t bytes_ = 0;
};

}  // namespace pyramoe::gemm
