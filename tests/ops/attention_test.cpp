// Rows of causal attention.
#include <cmath>

#include "tests/ops/op_test.h"

namespace pyramoe::optest {
namespace {

// Attention with probabilities kept or dropped as the kernel's documentation says.
Tensor naive_attention(const Tensor& qkv, const kernels::AttentionDropout& dropout) {
  const int64_t b = qkv.dim(0), t = qkv.dim(1), h = qkv.dim(3), d = qkv.dim(4);
  const auto at = [&](int64_t n, int64_t i, int64_t which, int64_t head, int64_t j) {
    return qkv.data<double>()[(((n * t + i) * 3 + which) * h + head) * d + j];
  };
  return make({b, t, h * d}, [&](int64_t index) {
    const int64_t j = index % d, head = index / d % h, i = index / (d * h) % t,
                  n = index / (d * h * t);
    double sum = 0, y = 0;
    for (int64_t key = 0; key <= i; ++key) {
      double score = 0;
      for (int64_t c = 0; c < d; ++c) score += at(n, i, 0, head, c) * at(n, key, 1, head, c);
      const double p = std::exp(score / std::sqrt(static_cast<double>(d)));
      const int64_t id = (((dropout.first_sequence + n) * h + head) * t + i) * t + key;
      const bool kept = dropout.p == 0 || static_cast<double>(random_uniform(
                                              dropout.key, static_cast<uint64_t>(id))) >= dropout.p;
      sum += p;
      if (kept) y += p / (1 - dropout.p) * at(n, key, 2, head, j);
    }
    return y / sum;
  });
}

OP_TEST(attention, {.inputs = {normal({2, 4, 3, 2, 3})},
                    .f = [](const Vars& v) { return ops::attention(v[0], {}); },
                    .expect = [](const Tensors& t) { return naive_attention(t[0], {}); },
                    .also = {{normal({1, 1, 3, 1, 1})},
                             {normal({1, 31, 3, 1, 8})},
                             {normal({1, 33, 3, 2, 5})},
                             {normal({2, 65, 3, 1, 16})},
                             {normal({1, 130, 3, 1, 64})}},
                    .rounding = Rounding::products});

const kernels::AttentionDropout half = {
    .p = 0.4, .key = {.seed = 5, .purpose = RngPurpose::attention_dropout}, .first_sequence = 3};

OP_TEST(attention_with_dropout,
        {.inputs = {normal({2, 4, 3, 2, 3})},
         .f = [](const Vars& v) { return ops::attention(v[0], half); },
         .expect = [](const Tensors& t) { return naive_attention(t[0], half); },
         .also = {{normal({1, 33, 3, 2, 8})}, {normal({2, 65, 3, 1, 16})}},
         .rounding = Rounding::products,
         .loosen = 2,
         .why = "kept probabilities grow by 1 / (1 - p) before a GPU rounds them to bf16 between "
                "two products"});

}  // namespace
}  // namespace pyramoe::optest
