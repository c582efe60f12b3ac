#include "cli/bench_memory.h"

#include "core/kernels/adam.h"
#include "core/kernels/cast.h"
#include "core/kernels/elementwise.h"
#include "core/kernels/embedding.h"
#include "core/kernels/layernorm.h"
#include "core/kernels/loss.h"
#include "core/kernels/random.h"
#include "core/kernels/reduce.h"
#include "core/rng.h"

namespace pyramoe::bench {
namespace {

// Times kernels one at a time; what a group of rows holds goes when its function returns, so that
// the largest group decides the memory.
struct Timer {
  Device device;
  DType dtype;
  Tensor flush;  // larger than the L2: writing it leaves nothing of the last call there
  double flush_seconds = 0;
  std::vector<KernelTime> times;
  uint32_t stream = 1;

  static constexpr int64_t kCalls = 4, kReplays = 7;

  Timer(Device where, DType type)
      : device(where), dtype(type), flush({int64_t{192} << 20}, DType::u8, where) {
    flush_seconds = replay_seconds(device, kCalls, kReplays, [&] { flush.zero(); });
  }
  // `bytes`: read once and written once.
  void row(const char* name, double bytes, const std::function<void()>& run) {
    const double both = replay_seconds(device, kCalls, kReplays, [&] {
      flush.zero();
      run();
    });
    times.push_back({name, std::max(both - flush_seconds, 1e-9), bytes, 0});
  }
  Tensor random(Shape shape, DType type, double std = 1) {
    Tensor y(std::move(shape), type, device);
    fill_random(y, std, stream++);
    return y;
  }
  Tensor random(Shape shape) { return random(std::move(shape), dtype); }
  Tensor f32(Shape shape) const { return Tensor(std::move(shape), DType::f32, device); }
  Tensor ids(int64_t n, int64_t below) {
    const RngKey key{stream++, RngPurpose::test, 0, 0};
    std::vector<int32_t> id(static_cast<size_t>(n));
    for (size_t i = 0; i < id.size(); ++i) {
      id[i] = static_cast<int32_t>(random_u32(key, i) % static_cast<uint32_t>(below));
    }
    return Tensor::from(id, {n}, device);
  }
};

void norm_rows(const MemoryOptions& o, Timer& t) {
  const auto n = static_cast<double>(o.tokens * o.d * size_of(t.dtype));
  const Tensor x = t.random({o.tokens, o.d}), dy = t.random({o.tokens, o.d});
  const Tensor weight = t.random({o.d}), bias = t.random({o.d});
  Tensor h = empty_like(x), y = empty_like(x), mean = t.f32({o.tokens}), rstd = t.f32({o.tokens});
  Tensor dw = t.f32({o.d}), db = t.f32({o.d});
  t.row("layernorm_forward", 2 * n,
        [&] { kernels::layernorm_forward(x, weight, bias, 1e-5, y, mean, rstd); });
  t.row("layernorm_backward", 3 * n,
        [&] { kernels::layernorm_backward(dy, x, weight, mean, rstd, false, y, dw, db); });
  t.row("add_layernorm_forward", 4 * n,
        [&] { kernels::add_layernorm_forward(x, dy, weight, bias, 1e-5, h, y, mean, rstd); });
  t.row("add_layernorm_backward", 4 * n,
        [&] { kernels::add_layernorm_backward(dy, x, h, weight, mean, rstd, false, y, dw, db); });
  t.row("add", 3 * n, [&] { kernels::add(x, dy, y); });
  t.row("gelu_forward", 2 * n, [&] { kernels::gelu_forward(x, y); });
  t.row("gelu_backward", 3 * n, [&] { kernels::gelu_backward(dy, x, y); });
  t.row("dropout", 2 * n, [&] { kernels::dropout(x, 0.1, {1}, 0, y); });
  t.row("sum_rows", n, [&] { kernels::sum_rows(x, false, dw); });
}

void loss_rows(const MemoryOptions& o, Timer& t) {
  const auto n = static_cast<double>(o.loss_tokens * o.vocab * size_of(t.dtype));
  const Tensor teacher = t.random({o.loss_tokens, o.vocab}), one = t.random({1}, DType::f32);
  const Tensor target = t.ids(o.loss_tokens, o.vocab);
  Tensor logits = t.random({o.loss_tokens, o.vocab}), loss = t.f32({o.loss_tokens});
  Tensor lse = empty_like(loss), teacher_lse = empty_like(loss);
  t.row("cross_entropy_forward", n,
        [&] { kernels::cross_entropy_forward(logits, target, loss, lse); });
  t.row("distill_forward", 2 * n,
        [&] { kernels::distill_forward(logits, teacher, 2, loss, lse, teacher_lse); });
  // From here on the logits are overwritten, by numbers as mixed as they were.
  t.row("cross_entropy_backward", 2 * n,
        [&] { kernels::cross_entropy_backward(one, logits, target, lse, o.loss_tokens, logits); });
  t.row("cross_entropy_in_place", 2 * n,
        [&] { kernels::cross_entropy_in_place(target, o.loss_tokens, logits, loss); });
  t.row("distill_backward", 3 * n,
        [&] { kernels::distill_backward(one, logits, teacher, 2, lse, teacher_lse, logits); });
  const Tensor share = Tensor::from(std::vector<double>{1, 1}, {2}, t.device);
  for (const int temperature : {1, 2}) {
    t.row(temperature == 1 ? "distill_in_place" : "distill_in_place, temperature 2", 3 * n, [&] {
      kernels::distill_in_place(target, teacher, temperature, share, o.loss_tokens, logits, loss,
                                lse);
    });
  }
}

void embedding_rows(const MemoryOptions& o, Timer& t) {
  const auto n = static_cast<double>(o.loss_tokens * o.d * size_of(t.dtype));
  const auto table = static_cast<double>(o.vocab * o.d * size_of(DType::f32));
  const Tensor token = t.ids(o.loss_tokens, o.vocab), position = t.ids(o.loss_tokens, 1024);
  const Tensor tokens = t.random({o.vocab, o.d}), positions = t.random({1024, o.d});
  Tensor y({o.loss_tokens, o.d}, t.dtype, t.device), dtable = t.f32({o.vocab, o.d});
  t.row("embedding_forward", 2 * n,
        [&] { kernels::embedding_forward(token, position, tokens, positions, y); });
  t.row("embedding_backward", n + table,
        [&] { kernels::embedding_backward(y, token, false, dtable); });
}

void optimizer_rows(const MemoryOptions& o, Timer& t) {
  const int64_t n = o.tokens * o.d;
  const auto elements = static_cast<double>(n), narrow = static_cast<double>(size_of(t.dtype));
  Tensor master = t.random({n}, DType::f32), m = t.random({n}, DType::f32, 1e-3), v = t.f32({n});
  Tensor param = t.random({n});
  const Tensor grad = t.random({n}, DType::f32, 1e-2);
  kernels::fill(1e-4, v);
  Tensor sum({1}, DType::f64, t.device);
  const Tensor scalars =
      Tensor::from(std::vector<double>{3e-4, 0.1, 0.05, 0.5, 0, 1, 3}, {7}, t.device);
  const bool own = t.dtype == DType::f32;  // an f32 parameter is its own master
  t.row("sum_squares", 4 * elements, [&] { kernels::sum_squares(grad, sum); });
  t.row("adamw_step", (28 + (own ? 0 : narrow)) * elements,
        [&] { kernels::adamw_step(grad, {}, scalars, master, m, v, own ? master : param); });
  t.row("cast", (4 + narrow) * elements, [&] { kernels::cast(grad, param); });
  if (t.dtype != DType::bf16) return;
  Tensor m16 = m.to(t.dtype), v16 = v.to(t.dtype);
  const Tensor g16 = grad.to(t.dtype);
  t.row("adamw_step_rounded", 14 * elements,
        [&] { kernels::adamw_step_rounded(g16, {}, scalars, {1}, 0, param, m16, v16); });
}

}  // namespace

std::vector<KernelTime> time_memory_kernels(const MemoryOptions& options, Device device,
                                            DType dtype) {
  Timer timer(device, dtype);
  embedding_rows(options, timer);
  norm_rows(options, timer);
  loss_rows(options, timer);
  optimizer_rows(options, timer);
  return timer.times;
}

}  // namespace pyramoe::bench
