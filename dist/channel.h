// Ordered messages among the ranks of one group: the only thing that pyramoe asks of a transport.
//
// Every collective is made of these (dist/process_group.cpp), so sums have our order, messages can
// be counted, delayed (dist/link_model.h) and watched (dist/watchdog.h), whatever the transport.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace pyramoe::dist {

// A message on its way.
class Request {
 public:
  virtual ~Request() = default;
  // True once the buffer may be used again (sent) or read (received). Never blocks.
  virtual bool done() = 0;
};
using RequestPtr = std::unique_ptr<Request>;

class Channel {
 public:
  virtual ~Channel() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // World ranks of the members, by group rank.
  virtual const std::vector<int>& members() const = 0;
  // The group of those that gave the same color, ordered by key. All members must call it.
  virtual std::unique_ptr<Channel> split(int color, int key) const = 0;
  // Both return at once; the memory must stay until the request is done. Messages of one sender
  // with one tag arrive in order.
  virtual RequestPtr send(const void* data, int64_t bytes, int to, int tag) const = 0;
  virtual RequestPtr receive(void* data, int64_t bytes, int from, int tag) const = 0;
};

}  // namespace pyramoe::dist
