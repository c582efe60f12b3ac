// A text read in parts through the cache has the logits of the text read at once.
#include "tests/moe/support.h"

namespace pyramoe::moe {
namespace {

constexpr int64_t kBatch = 2, kLength = 9;

Tensor text(int64_t begin, int64_t end) {
  Tensor ids({kBatch, end - begin}, DType::i32);
  for (int64_t i = 0; i < ids.numel(); ++i) {
    const int64_t row = i / (end - begin), place = begin + i % (end - begin);
    ids.data<int32_t>()[i] = static_cast<int32_t>((row * 5 + place * place * 3 + 1) % 17);
  }
  return ids;
}

TEST(KvCache, TextsMayComeInParts) {
  ModelConfig config = small_config();
  config.dim = 6;
  config.heads = 2;
  config.init_std = 0.5;
  config.experts = "0 3";
  const auto model = build_model(config, nn::Build{DType::f64, kCpu}, false);
  model->initialise(4);
  const NoGrad no_grad;
  nn::Context at_once;
  const Tensor want = model->forward(text(0, kLength), at_once).logits.value();
  for (const std::vector<int64_t>& ends : {std::vector<int64_t>{4, 9}, {1, 2, 3, 8, 9}, {9}}) {
    nn::KvCache cache = model->make_cache(kBatch, kLength);
    int64_t begin = 0;
    for (const int64_t end : ends) {
      nn::Context context;
      context.cache = &cache;
      const Tensor got = model->forward(text(begin, end), context).logits.value();
      const int64_t n = end - begin;
      for (int64_t b = 0; b < kBatch; ++b) {
        EXPECT_TRUE(near(got.rows(b * n, (b + 1) * n),
                         want.rows(b * kLength + begin, b * kLength + end), 1e-12))
            << "tokens " << begin << " to " << end;
      }
      cache.lengths.copy_from(
          Tensor::from(std::vector<int32_t>(kBatch, static_cast<int32_t>(end)), {kBatch}));
      begin = end;
    }
  }
}

}  // namespace
}  // namespace pyramoe::moe
