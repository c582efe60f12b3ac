// The kernels of a layer of experts one by one: each runs alone on the layer's shapes, with memory
// it has not just touched, so its time stands beside the bytes and FLOPs that it cannot avoid.
#include "cli/bench_layer.h"
#include "core/kernels/matmul.h"
#include "core/kernels/moe.h"
#include "moe/capacity.h"

namespace pyramoe::bench {
namespace {

struct Row {
  const char* name;
  double bytes, flops;
  std::function<void()> run;
};

// Everything a step of the layer holds. Letters as everywhere: N, k, E, D, F; R = N k.
struct Tensors {
  Tensor x, router, p, lse, expert, weight, kept, row, offsets, load, balance, share, z;
  Tensor up, down, dup, ddown, none;
  Tensor in, pre, hidden, out, y;  // (R, D), (R, F) twice, (R, D), (N, D)
  Tensor dy, dout, dhidden, din, dx, dweight, dbalance, drouter;
};

Tensors make_tensors(const LayerOptions& o, Device device, DType dtype, const Tensor& x,
                     const Tensor& router) {
  const int64_t n = o.tokens, k = o.top_k, e = o.experts, d = o.d, f = o.hidden_size();
  const auto wide = [&](Shape s) { return Tensor(std::move(s), router.dtype(), device); };
  const auto narrow = [&](Shape s) { return Tensor(std::move(s), dtype, device); };
  const auto ids = [&](Shape s) { return Tensor(std::move(s), DType::i32, device); };
  Tensors t;
  t.x = x, t.router = router, t.p = wide({n, e}), t.lse = wide({n}), t.expert = ids({n, k});
  t.weight = wide({n, k}), t.row = ids({n, k}), t.offsets = ids({e + 1}), t.load = ids({e});
  t.balance = wide({1}), t.share = wide({1, e}), t.dbalance = wide({1});
  t.up = narrow({e, f, d}), t.down = narrow({e, d, f});
  t.dup = empty_like(t.up), t.ddown = empty_like(t.down);
  t.in = narrow({n * k, d}), t.pre = narrow({n * k, f}), t.hidden = narrow({n * k, f});
  t.out = narrow({n * k, d}), t.y = narrow({n, d}), t.dy = narrow({n, d});
  t.dout = narrow({n * k, d}), t.dhidden = narrow({n * k, f}), t.din = narrow({n * k, d});
  t.dx = narrow({n, d}), t.dweight = wide({n, k}), t.drouter = empty_like(router);
  uint32_t stream = 50;
  for (Tensor* w : {&t.up, &t.down}) fill_random(*w, 0.02, stream++);
  for (Tensor* g : {&t.dy, &t.out, &t.in, &t.din}) fill_random(*g, 1, stream++);
  fill_random(t.dbalance, 0.01, stream++);
  return t;
}

std::vector<Row> routing_rows(const LayerOptions& o, Tensors& t) {
  const auto n = static_cast<double>(o.tokens), k = static_cast<double>(o.top_k);
  const auto e = static_cast<double>(o.experts), d = static_cast<double>(o.d);
  const double wide = 4, tokens = n * d * static_cast<double>(size_of(t.x.dtype()));
  std::vector<Row> rows;
  rows.push_back({"router_forward", tokens + wide * (e * d + n * e + 2 * n * k), 2 * n * d * e,
                  [&] { kernels::router_forward(t.x, t.router, t.p, t.lse, t.expert, t.weight); }});
  rows.push_back({"router_losses", wide * (n * e + n * k), 0, [&] {
                    kernels::router_losses(t.p, t.lse, t.expert, t.p.dim(0), false, t.balance,
                                           t.share, t.z);
                  }});
  const int64_t capacity =
      o.capacity > 0 ? moe::expert_capacity(o.tokens, o.experts, o.top_k, o.capacity, 4) : 0;
  const bool drops = capacity > 0 && capacity < o.tokens;
  if (drops && o.top_k == 1) {
    rows.push_back({"assign_rows_by_position", 8 * n, 0, [&t, capacity] {
                      kernels::assign_rows_by_position(t.expert, t.p.dim(0), capacity, t.row,
                                                       t.offsets, t.load);
                    }});
    return rows;
  }
  if (drops) {
    t.kept = Tensor(t.expert.shape(), DType::u8, t.x.device());
    rows.push_back({"keep_within_capacity", 5 * n * k, 0, [&t, capacity] {
                      kernels::keep_within_capacity(t.expert, t.weight, t.p.dim(1), t.p.dim(0),
                                                    capacity, kernels::DropBy::position, {}, 0,
                                                    t.kept);
                    }});
  }
  rows.push_back({"assign_rows", 8 * n * k, 0,
                  [&] { kernels::assign_rows(t.expert, t.kept, t.row, t.offsets, t.load); }});
  return rows;
}

// The rest needs to know how many choices found a row.
std::vector<Row> expert_rows(const LayerOptions& o, Tensors& t, double kept) {
  const auto n = static_cast<double>(o.tokens), e = static_cast<double>(o.experts);
  const auto d = static_cast<double>(o.d), f = static_cast<double>(o.hidden_size());
  const auto size = static_cast<double>(size_of(t.x.dtype()));
  const double tokens = n * d * size, rows_d = kept * d * size, rows_f = kept * f * size;
  const double weights = e * d * f * size, product = 2 * kept * d * f;
  std::vector<Row> r;
  r.push_back({"to_segments_forward", tokens + rows_d, 0,
               [&] { kernels::to_segments_forward(t.x, t.row, t.in); }});
  r.push_back({"grouped_linear_gelu_forward", rows_d + weights + rows_f * 2, product, [&] {
                 kernels::grouped_linear_gelu_forward(t.in, t.offsets, t.up, t.none, t.pre,
                                                      t.hidden);
               }});
  r.push_back({"grouped_linear_forward", rows_f + weights + rows_d, product, [&] {
                 kernels::grouped_linear_forward(t.hidden, t.offsets, t.down, t.none, t.out);
               }});
  r.push_back({"from_segments_forward", rows_d + tokens, 0,
               [&] { kernels::from_segments_forward(t.out, t.weight, t.row, t.y); }});
  r.push_back({"from_segments_add_forward", rows_d + 2 * tokens, 0,
               [&] { kernels::from_segments_add_forward(t.out, t.weight, t.row, t.dy, t.y); }});
  r.push_back({"from_segments_backward", tokens + 2 * rows_d, 0, [&] {
                 kernels::from_segments_backward(t.dy, t.out, t.weight, t.row, t.dout, t.dweight);
               }});
  r.push_back({"grouped_linear_dx_gelu", rows_d + weights + 3 * rows_f, product, [&] {
                 kernels::grouped_linear_dx_gelu(t.dout, t.offsets, t.down, t.pre, t.dhidden,
                                                 t.hidden);
               }});
  r.push_back({"grouped_linear_dw (down)", rows_d + weights + rows_f, product, [&] {
                 kernels::grouped_linear_dw(t.dout, t.hidden, t.offsets, false, t.ddown, t.none);
               }});
  r.push_back({"grouped_linear_dx (up)", rows_f + weights + rows_d, product,
               [&] { kernels::grouped_linear_dx(t.dhidden, t.offsets, t.up, t.din); }});
  r.push_back({"grouped_linear_dw (up)", rows_d + weights + rows_f, product, [&] {
                 kernels::grouped_linear_dw(t.dhidden, t.in, t.offsets, false, t.dup, t.none);
               }});
  r.push_back({"to_segments_backward", rows_d + tokens, 0,
               [&] { kernels::to_segments_backward(t.din, t.row, t.dx); }});
  r.push_back({"router_backward", 3 * tokens + 4 * (n * e + 2 * e * d), 4 * n * d * e, [&] {
                 kernels::router_backward(t.dweight, t.dbalance, t.none, t.p, t.lse, t.expert,
                                          t.share, t.p.dim(0), t.x, t.router, true, false, t.dx,
                                          t.drouter);
               }});
  return r;
}

}  // namespace

std::vector<KernelTime> time_layer_kernels(const LayerOptions& options, Device device, DType dtype,
                                           const Tensor& x, const Tensor& router) {
  Tensors t = make_tensors(options, device, dtype, x, router);
  // Larger than the L2: writing it leaves nothing of the last call there.
  const Tensor flush({int64_t{192} << 20}, DType::u8, device);
  constexpr int64_t kCalls = 8, kReplays = 5;
  const double empty = replay_seconds(device, kCalls, kReplays, [&] { flush.zero(); });
  std::vector<KernelTime> times;
  const auto time_rows = [&](const std::vector<Row>& rows) {
    for (const Row& row : rows) {
      const double both = replay_seconds(device, kCalls, kReplays, [&] {
        flush.zero();
        row.run();
      });
      times.push_back({row.name, std::max(both - empty, 1e-9), row.bytes, row.flops});
    }
  };
  time_rows(routing_rows(options, t));
  time_rows(expert_rows(options, t, t.offsets.to_vector().back()));
  return times;
}

}  // namespace pyramoe::bench
