#include "nn/kv_cache.h"

namespace pyramoe::nn {

KvCache KvCache::make(int64_t blocks, int64_t batch, int64_t t_max, int64_t heads, int64_t head_dim,
                      DType dtype, Device device) {
  KvCache cache;
  for (int64_t i = 0; i < blocks; ++i) {
    cache.layers.push_back(Tensor::zeros({batch, t_max, 2, heads, head_dim}, dtype, device));
  }
  cache.lengths = Tensor::zeros({batch}, DType::i32, device);
  return cache;
}

int64_t KvCache::bytes() const {
  int64_t total = 0;
  for (const Tensor& layer : layers) total += layer.bytes();
  return total;
}

}  // namespace pyramoe::nn
