// The sums over a few numbers a token run on the host, in rank order.
#include "nn/vocab_parallel.h"

#include <algorithm>
#include <cmath>

#include "core/kernels/embedding.h"
#include "core/kernels/loss.h"
#include "core/kernels/moe.h"

namespace pyramoe::nn {
namespace {

// Rows of the part [begin, begin + count) of the vocabulary; -1 elsewhere.
Tensor local_ids(const Tensor& ids, int64_t begin, int64_t count) {
  const Tensor host = ids.to(kCpu);
  Tensor local(ids.shape(), DType::i32);
  for (int64_t n = 0; n < ids.numel(); ++n) {
    const int64_t id = host.data<int32_t>()[n] - begin;
    local.data<int32_t>()[n] = id >= 0 && id < count ? static_cast<int32_t>(id) : -1;
  }
  return local.to(ids.device());
}

// What the ranks found: (ranks, N) from (N).
Tensor from_all(const Tensor& x, const dist::ProcessGroup& group) {
  Tensor all({group.size(), x.numel()}, x.dtype());
  group.all_gather(x.reshape({1, x.numel()}), all);
  return all;
}

// lse[n] over the whole vocabulary and loss[n], from the parts of all ranks.
template <class A>
void combine(const Tensor& lse_parts, const Tensor& hit_parts, Tensor& lse, Tensor& loss) {
  const int64_t ranks = lse_parts.dim(0), n = lse_parts.dim(1);
  const A *parts = lse_parts.data<A>(), *hits = hit_parts.data<A>();
  for (int64_t i = 0; i < n; ++i) {
    A top = parts[i], hit = 0, sum = 0;
    for (int64_t r = 1; r < ranks; ++r) top = std::max(top, parts[r * n + i]);
    for (int64_t r = 0; r < ranks; ++r) {
      sum += std::exp(parts[r * n + i] - top);
      hit += hits[r * n + i];  // the target's logit, from the one rank that has it
    }
    lse.data<A>()[i] = top + std::log(sum);
    loss.data<A>()[i] = lse.data<A>()[i] - hit;
  }
}

// Gradient rows of targets that other ranks have: the kernel takes them for ignored ones.
template <class T>
void add_foreign_rows(const Tensor& x, const Tensor& target, const Tensor& lse, double scale,
                      Tensor& dx) {
  using A = Acc<T>;
  const int64_t v = x.dim(1);
  for (int64_t n = 0; n < x.dim(0); ++n) {
    if (target.data<int32_t>()[n] >= 0) continue;
    const A norm = lse.data<A>()[n];
    for (int64_t j = n * v; j < (n + 1) * v; ++j) {
      const A p = std::exp(static_cast<A>(x.data<T>()[j]) - norm);
      dx.data<T>()[j] = static_cast<T>(p * static_cast<A>(scale));
    }
  }
}

}  // namespace

Var vocab_embedding(const Tensor& token, const Var& table, int64_t begin) {
  const Tensor weight = table.value();
  const int64_t rows = weight.dim(0), n = token.numel();
  const Tensor local = local_ids(token, begin, rows);
  const Tensor row = local.reshape({n, 1});
  Tensor y({n, weight.dim(1)}, weight.dtype(), weight.device());
  const DType wide = weight.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor ones = Tensor::full({n, 1}, wide, 1.0, kCpu).to(weight.device());
  kernels::from_segments_forward(weight, ones, row, y);
  return record(
      "vocab_embedding", {y}, {table},
      [local, weight](const Grads& dy, const GradInto& into) -> Grads {
        // The rows of dy whose tokens are here, closed up.
        std::vector<int32_t> id, place;
        for (const double x : local.to_vector()) {
          place.push_back(x < 0 ? -1 : static_cast<int32_t>(id.size()));
          if (x >= 0) id.push_back(static_cast<int32_t>(x));
        }
        const auto kept = static_cast<int64_t>(id.size());
        const Device device = dy[0].device();
        Tensor here({kept, dy[0].dim(1)}, dy[0].dtype(), device);
        kernels::to_segments_forward(dy[0], Tensor::from(place, {local.numel(), 1}, device), here);
        Tensor dtable = into[0].buffer.defined() ? into[0].buffer : empty_like(weight);
        kernels::embedding_backward(here, Tensor::from(id, {kept}, device), into[0].add, dtable);
        return {dtable};
      })[0];
}

Var vocab_cross_entropy(const Var& logits, const Tensor& target, const dist::ProcessGroup& group) {
  const Tensor x = logits.value();
  dist::check_travels("vocab_cross_entropy", x);
  const int64_t n = x.dim(0), v = x.dim(1);
  const Tensor local = local_ids(target, group.rank() * v, v);
  const DType wide = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  Tensor loss({n}, wide), lse = empty_like(loss), hit = empty_like(loss);
  kernels::cross_entropy_forward(x, local, loss, lse);
  const auto find_hits = [&]<class A>(A) {
    for (int64_t i = 0; i < n; ++i) {
      const bool mine = local.data<int32_t>()[i] >= 0;
      hit.data<A>()[i] = mine ? lse.data<A>()[i] - loss.data<A>()[i] : A{};
    }
  };
  wide == DType::f64 ? find_hits(double{}) : find_hits(float{});
  const Tensor all_lse = from_all(lse, group), all_hits = from_all(hit, group);
  if (wide == DType::f64) {
    combine<double>(all_lse, all_hits, lse, loss);
  } else {
    combine<float>(all_lse, all_hits, lse, loss);
  }
  double sum = 0;
  for (const double l : loss.to_vector()) sum += l;
  const Tensor mean = Tensor::scalar(sum / static_cast<double>(n), wide);
  return record("vocab_cross_entropy", {mean}, {logits},
                [=](const Grads& dy, const GradInto&) -> Grads {
                  Tensor dx = empty_like(x);
                  kernels::cross_entropy_backward(dy[0], x, local, lse, n, dx);
                  const double scale = dy[0].item() / static_cast<double>(n);
                  visit_floating(x.dtype(),
                                 [&]<class T>() { add_foreign_rows<T>(x, local, lse, scale, dx); });
                  return {dx};
                })[0];
}

}  // namespace pyramoe::nn
