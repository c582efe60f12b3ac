// A stable sort of small integer keys on the device: radix passes of 8 bits, lowest first.
//
// Each pass is three launches: tiles of 1024 keys count their digits; one block turns the counts
// into first places (a scan, digits outside, tiles inside); the tiles move their keys. A key's
// place in its tile is the number of equal digits before it, counted by ballots, never by atomics,
// so equal keys keep their order and every run gives the same order. How many passes there are
// follows from the largest key a caller allows: nothing is read on the host.
#pragma once

#include "cuda/launch.cuh"

namespace pyramoe::gpu {

// order[i] is the place, in `id`, of the i-th smallest key, and key[i] that key. Ids outside
// [0, limit) all take the key `limit`, behind the rest. Equal ids stay in order.
class SortedIds {
 public:
  SortedIds(const int32_t* id, int64_t count, int64_t limit);
  const int32_t* key() const { return key_; }
  const int32_t* order() const { return order_; }

 private:
  Scratch memory_;
  int32_t *key_ = nullptr, *order_ = nullptr;
};

}  // namespace pyramoe::gpu
