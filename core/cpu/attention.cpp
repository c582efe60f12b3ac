// CPU twins of core/kernels/attention.h: tensors to heads, heads to threads.
//
// A task is one head of one sequence; where there are fewer of them than the threads like, a task
// is one block of queries (or of keys) of a head. The work of a head is in attention_forward.h and
// attention_backward.h, and does not depend on how it is cut.
#include "core/kernels/attention.h"

#include "core/cpu/attention_backward.h"
#include "core/cpu/attention_forward.h"
#include "core/kernels/attention_checks.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {
namespace {

using attention::Rows;
using Sizes = AttentionSizes;

thread_local gemm::Buffer thread_buffer;

constexpr int64_t kTasksPerThread = 4;

// part 0, 1, 2: q, k, v of sequence b and head h.
template <class T>
Rows<T> head_rows(T* qkv, const Sizes& s, int64_t b, int64_t h, int64_t part) {
  const int64_t ld = 3 * s.width();
  return {qkv + b * s.tokens * ld + part * s.width() + h * s.dim, ld};
}
template <class T>
Rows<T> output_rows(T* y, const Sizes& s, int64_t b, int64_t h) {
  return {y + b * s.tokens * s.width() + h * s.dim, s.width()};
}

attention::Dropper dropper(const AttentionDropout& dropout, const Sizes& s, int64_t b, int64_t h) {
  const int64_t heads = dropout.heads > 0 ? dropout.heads : s.heads;
  const auto row =
      static_cast<uint64_t>((dropout.first_sequence + b) * heads + dropout.first_head + h);
  const auto tokens = static_cast<uint64_t>(s.tokens);
  return {dropout.p, dropout.key, row * tokens * tokens, tokens};
}

// How many tasks a head is cut into, so that all threads have work.
int64_t parts_of_head(const Sizes& s) {
  const bool enough = s.batch * s.heads >= kTasksPerThread * num_threads();
  return enough || num_threads() == 1 ? 1 : attention::blocks_of(s.tokens);
}

template <class T, class A>
attention::Backward<T, A> backward_of(const Sizes& s, int64_t b, int64_t h, const Tensor& dy,
                                      const Tensor& qkv, const Tensor& y, const Tensor& lse,
                                      const AttentionDropout& dropout, const Tensor& dqkv) {
  attention::Backward<T, A> f;
  const T* x = qkv.data<T>();
  f.q = head_rows(x, s, b, h, 0), f.k = head_rows(x, s, b, h, 1), f.v = head_rows(x, s, b, h, 2);
  f.y = output_rows<const T>(y.data<T>(), s, b, h);
  f.dy = output_rows<const T>(dy.data<T>(), s, b, h);
  T* dx = dqkv.data<T>();
  f.dq = head_rows(dx, s, b, h, 0), f.dk = head_rows(dx, s, b, h, 1);
  f.dv = head_rows(dx, s, b, h, 2);
  f.lse = lse.data<A>() + (b * s.heads + h) * s.tokens;
  f.tokens = s.tokens, f.dim = s.dim, f.scale = static_cast<A>(s.scale());
  f.drop = dropper(dropout, s, b, h);
  return f;
}

// Copies the new keys and values of one sequence behind those it has.
template <class T>
void append(const T* qkv, const Sizes& s, int64_t b, int64_t first, int64_t capacity, T* cache) {
  for (int64_t t = 0; t < s.tokens; ++t) {
    const T* from = qkv + ((b * s.tokens + t) * 3 + 1) * s.width();
    std::copy_n(from, 2 * s.width(), cache + (b * capacity + first + t) * 2 * s.width());
  }
}

}  // namespace

void attention_forward(const Tensor& qkv, const AttentionDropout& dropout, Tensor& y, Tensor& lse) {
  const Sizes s = check_attention_forward("attention_forward", qkv, y, lse);
  if (s.empty()) return;
  visit_floating(qkv.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const int64_t parts = parts_of_head(s);
    const int64_t part_tokens = parts == 1 ? s.tokens : attention::kBlock;
    const T* x = qkv.data<T>();
    T* out = y.data<T>();
    A* sums = lse.data<A>();
    parallel_for(s.batch * s.heads * parts, 1, [&](int64_t task, int64_t) {
      const int64_t head = task / parts, b = head / s.heads, h = head % s.heads;
      // The last blocks have the most keys: they go first.
      const int64_t first = (parts - 1 - task % parts) * part_tokens;
      attention::Forward<T, A> f;
      f.q = head_rows(x, s, b, h, 0), f.k = head_rows(x, s, b, h, 1);
      f.v = head_rows(x, s, b, h, 2), f.y = output_rows(out, s, b, h);
      f.q.data = f.q.row(first), f.y.data = f.y.row(first);
      f.lse = sums + head * s.tokens + first;
      f.queries = std::min(part_tokens, s.tokens - first), f.first = first, f.dim = s.dim;
      f.scale = static_cast<A>(s.scale()), f.drop = dropper(dropout, s, b, h);
      attention::forward(f, thread_buffer);
    });
  });
}

void attention_backward(const Tensor& dy, const Tensor& qkv, const Tensor& y, const Tensor& lse,
                        const AttentionDropout& dropout, Tensor& dqkv) {
  const Sizes s = check_attention_backward("attention_backward", dy, qkv, y, lse, dqkv);
  if (s.empty()) return;
  visit_floating(qkv.dtype(), [&]<class T>() {
    const int64_t parts = parts_of_head(s), blocks = attention::blocks_of(s.tokens);
    const auto run = [&](int64_t head, const attention::Part& part) {
      const auto f =
          backward_of<T, Acc<T>>(s, head / s.heads, head % s.heads, dy, qkv, y, lse, dropout, dqkv);
      attention::backward(f, part, thread_buffer);
    };
    if (parts == 1) {
      parallel_for(s.batch * s.heads, 1, [&](int64_t head, int64_t) {
        run(head, {0, blocks, 0, blocks, true, true});
      });
      return;
    }
    // Few heads: dK and dV by blocks of keys, dQ by blocks of queries; probabilities twice.
    parallel_for(s.batch * s.heads * blocks * 2, 1, [&](int64_t task, int64_t) {
      const int64_t head = task / (2 * blocks), b = task % (2 * blocks) / 2;
      if (task % 2 == 0) {
        run(head, {b, b + 1, b, blocks, false, true});
      } else {
        run(head, {0, b + 1, b, b + 1, true, false});
      }
    });
  });
}

void attention_cached(const Tensor& qkv, const Tensor& lengths, Tensor& cache, Tensor& y) {
  const char* op = "attention_cached";
  const Sizes s = check_attention_cached(op, qkv, lengths, cache, y);
  const int64_t capacity = cache.dim(1);
  const int32_t* length = lengths.data<int32_t>();
  for (int64_t b = 0; b < s.batch; ++b) {
    PM_CHECK(length[b] >= 0 && length[b] + s.tokens <= capacity, op, ": sequence ", b, " has ",
             length[b], " tokens; ", s.tokens, " more do not fit a cache of ", capacity);
  }
  if (s.empty()) return;
  visit_floating(qkv.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T* x = qkv.data<T>();
    T *kv = cache.data<T>(), *out = y.data<T>();
    parallel_for(s.batch, 1, [&](int64_t b, int64_t) { append(x, s, b, length[b], capacity, kv); });
    const int64_t parts = parts_of_head(s);
    const int64_t part_tokens = parts == 1 ? s.tokens : attention::kBlock;
    const int64_t ld = 2 * s.width();
    parallel_for(s.batch * s.heads * parts, 1, [&](int64_t task, int64_t) {
      const int64_t head = task / parts, b = head / s.heads, h = head % s.heads;
      const int64_t first = (parts - 1 - task % parts) * part_tokens;
      attention::Forward<T, A> f;
      f.q = head_rows(x, s, b, h, 0), f.y = output_rows(out, s, b, h);
      f.q.data = f.q.row(first), f.y.data = f.y.row(first);
      f.k = {kv + b * capacity * ld + h * s.dim, ld};
      f.v = {f.k.data + s.width(), ld};
      f.queries = std::min(part_tokens, s.tokens - first), f.first = length[b] + first;
      f.dim = s.dim, f.scale = static_cast<A>(s.scale());
      attention::forward(f, thread_buffer);
    });
  });
}

}  // namespace pyramoe::kernels::cpu
