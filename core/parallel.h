// The process's worker threads. Work is cut by shape, never by the number of threads, so results
// are the same bits for any thread count.
#pragma once

#include <cstdint>
#include <functional>

namespace pyramoe {

// Threads that parallel_for uses, the caller included. Default: the cores this process may run on
// (sched_getaffinity), or PYRAMOE_THREADS.
int num_threads();
void set_num_threads(int n);

// Calls f(begin, end) on the chunks [0, grain), [grain, 2 grain), … of [0, n). Chunks run on any
// thread in any order; a call from inside a chunk runs in place. The first exception is rethrown.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& f);

}  // namespace pyramoe
