#include "dist/process_group.h"

#include <cstring>
#include <numeric>

#include "dist/reduce_tree.h"

namespace pyramoe::dist {
namespace {

// Below this, a sum is made by everybody from everybody's whole tensor: one round instead of two.
constexpr int64_t kSmallBytes = 16 << 10;
constexpr int kTags = 1 << 15;  // what MPI promises at least

int64_t sum_of(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

// Bytes of one row of axis 0; a tensor without axes is one row.
int64_t row_bytes(const Tensor& x) {
  int64_t elements = 1;
  for (int64_t i = 1; i < x.rank(); ++i) elements *= x.dim(static_cast<int>(i));
  return elements * size_of(x.dtype());
}

void copy_bytes(void* to, const void* from, int64_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(bytes));
}

void reduce_parts(Reduce how, const Tensors& parts, const Tensor& out) {
  how == Reduce::sum ? sum_tree(parts, out) : max_of_parts(parts, out);
}

// How `rows` are cut over `parts` ranks: as even as can be, the first ones longer.
Counts even_counts(int64_t rows, int parts) {
  Counts counts(static_cast<size_t>(parts), rows / parts);
  for (int64_t r = 0; r < rows % parts; ++r) ++counts[static_cast<size_t>(r)];
  return counts;
}

// The parts of a receive buffer, one a rank.
Tensors split_rows(const Tensor& buffer, int parts) {
  const int64_t rows = buffer.dim(0) / parts;
  Tensors all;
  for (int r = 0; r < parts; ++r) all.push_back(buffer.rows(r * rows, (r + 1) * rows));
  return all;
}

}  // namespace

void check_travels(const char* op, const Tensor& x) {
  PM_CHECK(x.defined(), op, ": an undefined tensor");
  if (x.device().type == DeviceType::cpu) return;
  fail(Exit::config, op, ": the tensor is on ", to_string(x.device()),
       ", and tensors travel between ranks on the CPU only; train with --device cpu, or on one "
       "rank");
}

ProcessGroup::ProcessGroup(std::shared_ptr<Channel> channel, std::shared_ptr<Fabric> fabric,
                           std::string name)
    : state_(
          std::make_shared<State>(State{std::move(channel), std::move(fabric), std::move(name)})) {}

const std::vector<int>& ProcessGroup::members() const {
  static const std::vector<int> alone{0};
  return state_ ? state_->channel->members() : alone;
}

const std::string& ProcessGroup::name() const {
  static const std::string alone = "one rank";
  return state_ ? state_->name : alone;
}

ProcessGroup ProcessGroup::split(int color, int key, const std::string& name) const {
  if (!state_) return {};
  std::shared_ptr<Channel> part = state_->channel->split(color, key);
  return ProcessGroup(std::move(part), state_->fabric, name);
}

// stages[0] runs now, the others as the messages of the one before are done.
Work ProcessGroup::launch(const char* op, const Tensor& x, std::vector<Exchange> stages) const {
  auto work = std::make_shared<WorkState>(*state_->fabric, op, state_->name, state_->sequence++,
                                          x.bytes(), size());
  work->keep(x);
  for (Exchange& stage : stages) work->then(std::move(stage));
  if (!work->advance()) state_->fabric->track(work);
  return Work(work);
}

namespace {

// What a stage needs to send and receive.
struct Post {
  Channel& channel;
  Fabric& fabric;
  int tag;

  void send(WorkState& work, const void* data, int64_t bytes, int to) const {
    const int me = fabric.rank(), other = channel.members()[static_cast<size_t>(to)];
    work.count(fabric.link(me, other), bytes);
    work.add(channel.send(data, bytes, to, tag));
  }
  void receive(WorkState& work, void* data, int64_t bytes, int from) const {
    work.add(channel.receive(data, bytes, from, tag));
  }
  // Every rank sends send[r] rows of x to rank r and gets recv[r] rows from it into y.
  void all_to_all(WorkState& work, const Tensor& x, const Counts& send_rows, const Tensor& y,
                  const Counts& recv_rows) const {
    const int64_t row = row_bytes(x), row_y = row_bytes(y);
    const int p = channel.size(), me = channel.rank();
    auto* to = static_cast<char*>(y.raw());
    const auto* from = static_cast<const char*>(x.raw());
    std::vector<int64_t> send_at(static_cast<size_t>(p)), recv_at(static_cast<size_t>(p));
    std::exclusive_scan(send_rows.begin(), send_rows.end(), send_at.begin(), int64_t{0});
    std::exclusive_scan(recv_rows.begin(), recv_rows.end(), recv_at.begin(), int64_t{0});
    for (int step = 1; step < p; ++step) {
      const int r = (me + p - step) % p;
      const auto i = static_cast<size_t>(r);
      if (recv_rows[i] > 0) receive(work, to + recv_at[i] * row_y, recv_rows[i] * row_y, r);
    }
    for (int step = 1; step < p; ++step) {
      const int r = (me + step) % p;
      const auto i = static_cast<size_t>(r);
      if (send_rows[i] > 0) send(work, from + send_at[i] * row, send_rows[i] * row, r);
    }
    const auto i = static_cast<size_t>(me);
    copy_bytes(to + recv_at[i] * row_y, from + send_at[i] * row, send_rows[i] * row);
  }
  // Every rank sends all of x to every other; y gets counts[r] rows from rank r.
  void all_gather(WorkState& work, const Tensor& x, const Tensor& y, const Counts& counts) const {
    const int64_t row = row_bytes(y);
    const int p = channel.size(), me = channel.rank();
    auto* to = static_cast<char*>(y.raw());
    std::vector<int64_t> at(static_cast<size_t>(p));
    std::exclusive_scan(counts.begin(), counts.end(), at.begin(), int64_t{0});
    for (int step = 1; step < p; ++step) {
      const int r = (me + p - step) % p;
      const auto i = static_cast<size_t>(r);
      if (counts[i] > 0) receive(work, to + at[i] * row, counts[i] * row, r);
    }
    copy_bytes(to + at[static_cast<size_t>(me)] * row, x.raw(), x.bytes());
    for (int step = 1; step < p && x.bytes() > 0; ++step) {
      send(work, x.raw(), x.bytes(), (me + step) % p);
    }
  }
};

}  // namespace

#define PM_POST \
  Post { *state_->channel, *state_->fabric, static_cast<int>(state_->sequence % kTags) }

void ProcessGroup::barrier() const {
  if (size() == 1) return;
  Tensor x = Tensor::zeros({1}, DType::u8), y({size()}, DType::u8);
  const Post post = PM_POST;
  launch("barrier", x, {[=](WorkState& work) {
           work.keep(y);
           post.all_gather(work, x, y, Counts(static_cast<size_t>(post.channel.size()), 1));
         }})
      .wait();
}

Work ProcessGroup::start_all_reduce(Tensor& x, Reduce how) const {
  check_travels("all_reduce", x);
  if (size() == 1 || x.numel() == 0) return {};
  const int p = size(), me = rank();
  const Tensor flat = x.reshape({x.numel()});
  const Post post = PM_POST;
  if (x.bytes() <= kSmallBytes) {
    const Tensor all({p * x.numel()}, x.dtype());
    return launch("all_reduce", x,
                  {[=](WorkState& work) {
                     const auto n = static_cast<size_t>(p);
                     post.all_gather(work, flat, all, Counts(n, flat.numel()));
                   },
                   [=](WorkState&) { reduce_parts(how, split_rows(all, p), flat); }});
  }
  const Counts parts = even_counts(flat.numel(), p);
  const int64_t mine = parts[static_cast<size_t>(me)];
  const int64_t begin = sum_of(Counts(parts.begin(), parts.begin() + me));
  const Tensor inbox({p * mine}, x.dtype());
  const Tensor own = flat.rows(begin, begin + mine);
  return launch("all_reduce", x,
                {[=](WorkState& work) {
                   work.keep(inbox);
                   post.all_to_all(work, flat, parts, inbox, Counts(static_cast<size_t>(p), mine));
                 },
                 [=](WorkState& work) {
                   reduce_parts(how, split_rows(inbox, p), own);
                   post.all_gather(work, own, flat, parts);
                 }});
}

Work ProcessGroup::start_all_gather(const Tensor& x, Tensor& y) const {
  const int64_t rows = x.rank() == 0 ? 1 : x.dim(0);
  return start_all_gather(x, y, Counts(static_cast<size_t>(size()), rows));
}

Work ProcessGroup::start_all_gather(const Tensor& x, Tensor& y, const Counts& counts) const {
  check_travels("all_gather", x);
  check_travels("all_gather", y);
  const auto me = static_cast<size_t>(rank());
  PM_CHECK(static_cast<int>(counts.size()) == size() && x.dtype() == y.dtype() &&
               x.bytes() == counts[me] * row_bytes(y) && y.bytes() == sum_of(counts) * row_bytes(y),
           "all_gather in ", name(), ": x ", to_string(x.shape()), " does not fit y ",
           to_string(y.shape()));
  if (size() == 1) {
    copy_bytes(y.raw(), x.raw(), x.bytes());
    return {};
  }
  const Post post = PM_POST;
  const Tensor out = y;
  return launch("all_gather", x, {[=](WorkState& work) {
                  work.keep(out);
                  post.all_gather(work, x, out, counts);
                }});
}

Work ProcessGroup::start_reduce_scatter(const Tensor& x, Tensor& y) const {
  return start_reduce_scatter(
      x, y, Counts(static_cast<size_t>(size()), x.rank() == 0 ? 1 : x.dim(0) / size()));
}

Work ProcessGroup::start_reduce_scatter(const Tensor& x, Tensor& y, const Counts& counts) const {
  check_travels("reduce_scatter", x);
  check_travels("reduce_scatter", y);
  const int p = size();
  const int64_t mine = counts.at(static_cast<size_t>(rank()));
  PM_CHECK(static_cast<int>(counts.size()) == p && x.dtype() == y.dtype() &&
               x.bytes() == sum_of(counts) * row_bytes(x) && y.bytes() == mine * row_bytes(x),
           "reduce_scatter in ", name(), ": x ", to_string(x.shape()), " does not fit y ",
           to_string(y.shape()));
  if (p == 1) {
    copy_bytes(y.raw(), x.raw(), x.bytes());
    return {};
  }
  Shape shape = x.shape();
  shape.at(0) = p * mine;
  const Tensor inbox(shape, x.dtype());
  const Tensor out = y;
  const Post post = PM_POST;
  return launch("reduce_scatter", x,
                {[=](WorkState& work) {
                   work.keep(inbox);
                   work.keep(out);
                   post.all_to_all(work, x, counts, inbox, Counts(static_cast<size_t>(p), mine));
                 },
                 [=](WorkState&) {
                   if (mine > 0) sum_tree(split_rows(inbox, p), out);
                 }});
}

Work ProcessGroup::start_broadcast(Tensor& x, int root) const {
  check_travels("broadcast", x);
  PM_CHECK(root >= 0 && root < size(), "broadcast: root ", root, " of ", size(), " ranks");
  if (size() == 1 || x.bytes() == 0) return {};
  const int p = size(), me = rank();
  const Tensor all = x;
  const Post post = PM_POST;
  return launch("broadcast", x, {[=](WorkState& work) {
                  if (me != root) return post.receive(work, all.raw(), all.bytes(), root);
                  for (int r = 0; r < p; ++r) {
                    if (r != me) post.send(work, all.raw(), all.bytes(), r);
                  }
                }});
}

Work ProcessGroup::exchange(const char* op, const Tensor& x, const Counts& send, Tensor& y,
                            const Counts& recv) const {
  check_travels(op, x);
  check_travels(op, y);
  const auto p = static_cast<size_t>(size()), me = static_cast<size_t>(rank());
  PM_CHECK(send.size() == p && recv.size() == p && send[me] == recv[me] && x.dtype() == y.dtype() &&
               row_bytes(x) == row_bytes(y) && x.bytes() == sum_of(send) * row_bytes(x) &&
               y.bytes() == sum_of(recv) * row_bytes(y),
           op, " in ", name(), ": x ", to_string(x.shape()), " and y ", to_string(y.shape()),
           " do not fit the counts of ", send.size(), " ranks: ", sum_of(send), " rows out, ",
           sum_of(recv), " in");
  if (p == 1) {
    copy_bytes(y.raw(), x.raw(), x.bytes());
    return {};
  }
  const Tensor out = y;
  const Post post = PM_POST;
  return launch(op, x, {[=](WorkState& work) {
                  work.keep(out);
                  post.all_to_all(work, x, send, out, recv);
                }});
}

Work ProcessGroup::start_all_to_all(const Tensor& x, const Counts& send, Tensor& y,
                                    const Counts& recv) const {
  return exchange("all_to_all", x, send, y, recv);
}

Work ProcessGroup::start_all_to_all(const Tensor& x, Tensor& y, const char* label) const {
  PM_CHECK(x.rank() > 0 && x.dim(0) % size() == 0, "all_to_all in ", name(), ": ", x.dim(0),
           " rows cannot be cut into ", size(), " equal parts");
  const Counts counts(static_cast<size_t>(size()), x.dim(0) / size());
  return exchange(label, x, counts, y, counts);
}

}  // namespace pyramoe::dist
