// CUDA attention against plain loops in f64: forward, backward, dropout, cached tokens.
//
// Every bound follows from the inputs, per element: what rounding the scores, the probabilities,
// dS, y and the result can change at most (see Truth). Run the suite again with PYRAMOE_PORTABLE=1
// to see the portable kernels at head dim 64 and 128 too.
#include "core/kernels/attention.h"

#include "core/parallel.h"
#include "tests/gpu/support.h"

namespace pyramoe::gputest {
namespace {

using kernels::AttentionDropout;

struct Sizes {
  int64_t batch, tokens, heads, dim;
};
std::string name_of(const Sizes& s, DType type) {
  return std::to_string(s.batch) + " x " + std::to_string(s.tokens) + " x " +
         std::to_string(s.heads) + " x " + std::to_string(s.dim) + " " + to_string(type);
}

// The value of every output in f64 and how far it may be off.
struct Truth {
  Tensor y, lse, dqkv, y_bound, lse_bound, dqkv_bound;
};

// One head by the formulas. u: unit roundoff of the tensors' dtype.
class Head {
 public:
  Head(const Sizes& s, const Tensor& qkv, const Tensor& dy, const AttentionDropout& dropout,
       double u, int64_t b, int64_t h, Truth& t)
      : s_(s),
        dropout_(dropout),
        u_(u),
        b_(b),
        h_(h),
        t_(t),
        x_(qkv.data<double>()),
        g_(dy.data<double>()),
        p_(static_cast<size_t>(s.tokens)),
        dp_(p_),
        keep_(p_) {}

  void run() {
    for (int64_t q = 0; q < s_.tokens; ++q) {
      forward(q);
      backward(q);
    }
    // The last rounding, and fp32 sums over up to `tokens` queries.
    for (int64_t t = 0; t < s_.tokens; ++t) {
      for (int64_t part = 0; part < 3; ++part) {
        double *value = t_.dqkv.data<double>() + at(t, part), *bound = dqkv_bound(t, part);
        for (int64_t d = 0; d < s_.dim; ++d) bound[d] += 1.01 * u_ * std::abs(value[d]) + 1e-30;
      }
    }
  }

 private:
  static constexpr double kFp32 = 0x1p-24;
  int64_t at(int64_t t, int64_t part) const {
    return (((b_ * s_.tokens + t) * 3 + part) * s_.heads + h_) * s_.dim;
  }
  int64_t out_at(int64_t t) const { return ((b_ * s_.tokens + t) * s_.heads + h_) * s_.dim; }
  double* dqkv_bound(int64_t t, int64_t part) { return t_.dqkv_bound.data<double>() + at(t, part); }
  double scale() const { return 1 / std::sqrt(static_cast<double>(s_.dim)); }
  double dot(const double* a, const double* b) const {
    double sum = 0;
    for (int64_t d = 0; d < s_.dim; ++d) sum += a[d] * b[d];
    return sum;
  }
  double absolute_dot(const double* a, const double* b) const {
    double sum = 0;
    for (int64_t d = 0; d < s_.dim; ++d) sum += std::abs(a[d] * b[d]);
    return sum;
  }
  void add(double weight, const double* from, double* to) const {
    for (int64_t d = 0; d < s_.dim; ++d) to[d] += weight * from[d];
  }
  void add_absolute(double weight, const double* from, double* to) const {
    for (int64_t d = 0; d < s_.dim; ++d) to[d] += weight * std::abs(from[d]);
  }

  // p_, keep_, y and lse of query q; p_error_: how far a probability may be off, relatively.
  void forward(int64_t q) {
    const double* query = x_ + at(q, 0);
    const int64_t row = ((dropout_.first_sequence + b_) * s_.heads + h_) * s_.tokens + q;
    double largest = -1e300, sum = 0, length = 0;
    for (int64_t k = 0; k <= q; ++k) {
      const auto i = static_cast<size_t>(k);
      p_[i] = scale() * dot(query, x_ + at(k, 1));
      largest = std::max(largest, p_[i]);
      length = std::max(length, dot(x_ + at(k, 1), x_ + at(k, 1)));
      keep_[i] = 1;
      if (dropout_.p > 0) {
        const auto id = static_cast<uint64_t>(row * s_.tokens + k);
        keep_[i] = random_uniform(dropout_.key, id) >= dropout_.p ? 1 / (1 - dropout_.p) : 0;
      }
    }
    for (int64_t k = 0; k <= q; ++k) sum += std::exp(p_[static_cast<size_t>(k)] - largest);
    const double lse = largest + std::log(sum), terms = static_cast<double>(q + 16);
    // A score is a sum of Dh products in fp32, at most |q| |k| large.
    const double score_error = (static_cast<double>(s_.dim) + 16) * kFp32 * scale() *
                               std::sqrt(dot(query, query) * length);
    p_error_ = u_ + 2 * score_error + terms * kFp32 + 0x1p-20;
    double* y = t_.y.data<double>() + out_at(q);
    double* y_bound = t_.y_bound.data<double>() + out_at(q);
    for (int64_t k = 0; k <= q; ++k) {
      const auto i = static_cast<size_t>(k);
      p_[i] = std::exp(p_[i] - lse);
      add(p_[i] * keep_[i], x_ + at(k, 2), y);
      add_absolute(p_[i] * keep_[i] * p_error_, x_ + at(k, 2), y_bound);
    }
    add_absolute(1.01 * u_, y, y_bound);
    const int64_t i = (b_ * s_.heads + h_) * s_.tokens + q;
    t_.lse.data<double>()[i] = lse;
    t_.lse_bound.data<double>()[i] = score_error + terms * kFp32 + 0x1p-20 * (1 + std::abs(lse));
  }

  void backward(int64_t q) {
    const double *dy = g_ + out_at(q), *y = t_.y.data<double>() + out_at(q);
    const double delta = dot(dy, y), fp32 = (static_cast<double>(s_.dim) + 16) * kFp32;
    // delta is a sum over the rounded y.
    const double delta_error =
        absolute_dot(dy, t_.y_bound.data<double>() + out_at(q)) + fp32 * absolute_dot(dy, y);
    const double terms = static_cast<double>(s_.tokens + 16) * kFp32;
    for (int64_t k = 0; k <= q; ++k) {
      const auto i = static_cast<size_t>(k);
      const double *key = x_ + at(k, 1), *value = x_ + at(k, 2);
      const double p = p_[i], dp = keep_[i] * dot(dy, value);
      const double ds = scale() * p * (dp - delta);
      const double ds_error = scale() * p *
                              ((p_error_ + u_ + terms) * (std::abs(dp) + std::abs(delta)) +
                               delta_error + keep_[i] * fp32 * absolute_dot(dy, value));
      add(p * keep_[i], dy, t_.dqkv.data<double>() + at(k, 2));
      add_absolute(p * keep_[i] * (p_error_ + terms), dy, dqkv_bound(k, 2));
      add(ds, key, t_.dqkv.data<double>() + at(q, 0));
      add_absolute(ds_error, key, dqkv_bound(q, 0));
      add(ds, x_ + at(q, 0), t_.dqkv.data<double>() + at(k, 1));
      add_absolute(ds_error, x_ + at(q, 0), dqkv_bound(k, 1));
    }
  }

  const Sizes s_;
  const AttentionDropout dropout_;
  const double u_;
  const int64_t b_, h_;
  Truth& t_;
  const double *x_, *g_;
  std::vector<double> p_, dp_, keep_;
  double p_error_ = 0;
};

Truth truth(const Sizes& s, const Tensor& qkv, const Tensor& dy, const AttentionDropout& dropout) {
  const Shape out{s.batch, s.tokens, s.heads * s.dim}, rows{s.batch, s.heads, s.tokens};
  const auto zeros = [](const Shape& shape) { return Tensor::zeros(shape, DType::f64); };
  Truth t{zeros(out), zeros(rows), zeros(qkv.shape()), zeros(out), zeros(rows), zeros(qkv.shape())};
  const Tensor x = qkv.to(DType::f64), g = dy.to(DType::f64);
  parallel_for(s.batch * s.heads, 1, [&](int64_t head, int64_t) {
    Head(s, x, g, dropout, unit_roundoff(qkv.dtype()), head / s.heads, head % s.heads, t).run();
  });
  return t;
}

struct Result {
  Tensor y, lse, dqkv;
};
Result on_device(const Tensor& qkv, const Tensor& dy, const AttentionDropout& dropout) {
  const Tensor x = on_gpu(qkv), g = on_gpu(dy);
  // What lies behind the last head's lse must stay: tiles end after the last query.
  const int64_t rows = qkv.dim(0) * qkv.dim(3) * qkv.dim(1), behind = 128;
  const Tensor room = poison(Tensor({rows + behind}, DType::f32, kGpu)), kept = room.clone();
  Result r{poisoned_like(dy), room.rows(0, rows).reshape({qkv.dim(0), qkv.dim(3), qkv.dim(1)}),
           poisoned_like(qkv)};
  kernels::attention_forward(x, dropout, r.y, r.lse);
  kernels::attention_backward(g, x, r.y, r.lse, dropout, r.dqkv);
  expect_same_bits(kept.rows(rows, rows + behind), room.rows(rows, rows + behind), "behind lse");
  return r;
}

void check(const Sizes& s, DType type, const AttentionDropout& dropout = {}) {
  if (left_out(s.batch * s.heads * s.tokens * s.tokens)) return;
  const std::string name = name_of(s, type);
  const Tensor qkv = normal({s.batch, s.tokens, 3, s.heads, s.dim}, type, 1, 1);
  const Tensor dy = normal({s.batch, s.tokens, s.heads * s.dim}, type, 1, 2);
  const Truth want = truth(s, qkv, dy, dropout);
  const Result got = on_device(qkv, dy, dropout), again = on_device(qkv, dy, dropout);
  expect_close(want.y, got.y, want.y_bound, name + " y");
  expect_close(want.lse, got.lse, want.lse_bound, name + " lse");
  expect_close(want.dqkv, got.dqkv, want.dqkv_bound, name + " dqkv");
  expect_same_bits(got.y, again.y, name + " y twice");
  expect_same_bits(got.lse, again.lse, name + " lse twice");
  expect_same_bits(got.dqkv, again.dqkv, name + " dqkv twice");
}

// Every path once: few enough for a sanitizer. 134 heads are more tiles than multiprocessors.
TEST(CudaAttention, MatchesPlainLoopsOnEachPath) {
  SKIP_WITHOUT_GPU();
  for (const int64_t dim : {64, 128}) {
    check({1, 129, 2, dim}, DType::bf16);
    check({67, 3, 2, dim}, DType::bf16);
  }
  check({1, 129, 2, 40}, DType::bf16);
  check({1, 65, 1, 160}, DType::bf16);
}
TEST(CudaAttention, F32MatchesPlainLoopsOnEachPath) {
  SKIP_WITHOUT_GPU();
  check({1, 70, 2, 16}, DType::f32);
}

TEST(CudaAttention, MatchesPlainLoopsAtOddSizes) {
  SKIP_WITHOUT_GPU();
  for (const int64_t tokens : {1, 31, 33, 64, 127, 128, 129}) {
    for (const int64_t dim : {32, 40, 64, 96, 128}) {
      check({tokens < 100 ? 3 : 1, tokens, 3, dim}, DType::bf16);
    }
    for (const int64_t dim : {8, 40, 128}) check({1, tokens, 3, dim}, DType::f32);
  }
  for (const int64_t dim : {1, 7, 33, 129, 160, 256}) {
    for (const DType type : {DType::f32, DType::bf16}) check({2, 65, 1, dim}, type);
  }
}

TEST(CudaAttention, MatchesPlainLoopsOverManyTiles) {
  SKIP_WITHOUT_GPU();
  for (const int64_t tokens : {320, 1000, 1024}) {
    for (const int64_t dim : {64, 128}) check({1, tokens, 3, dim}, DType::bf16);
  }
  check({1, 300, 3, 64}, DType::f32);
  check({1, 500, 1, 80}, DType::bf16);
  check({5, 129, 31, 64}, DType::bf16);  // more tiles than multiprocessors
}

TEST(CudaAttention, DropsProbabilitiesByCounter) {
  SKIP_WITHOUT_GPU();
  const AttentionDropout dropout{0.3, {7, RngPurpose::attention_dropout, 5, 2}, 11};
  for (const Sizes& s : {Sizes{2, 3, 2, 4}, Sizes{1, 33, 3, 5}, Sizes{3, 130, 1, 64}}) {
    for (const DType type : {DType::f32, DType::bf16}) check(s, type, dropout);
  }
}

// Rows of ids that start on any of a counter's four words, one tile and many, more tiles than
// multiprocessors.
TEST(CudaAttention, DropsProbabilitiesOnTensorCores) {
  SKIP_WITHOUT_GPU();
  const AttentionDropout dropout{0.2, {9, RngPurpose::attention_dropout, 3, 1}, 5};
  for (const int64_t dim : {64, 128}) {
    for (const int64_t tokens : {1, 63, 65, 128, 129, 254, 321}) {
      check({tokens < 100 ? 3 : 1, tokens, 2, dim}, DType::bf16, dropout);
    }
  }
  check({1, 1000, 3, 64}, DType::bf16, dropout);
  check({1, 515, 2, 128}, DType::bf16, dropout);
  check({5, 129, 31, 64}, DType::bf16, dropout);
  // Ids pass 2^34 in query 97 (78): their counters, 2^32.
  check({1, 148, 2, 64}, DType::bf16, {0.2, dropout.key, 392162});
  check({1, 125, 2, 64}, DType::bf16, {0.2, dropout.key, 549755});
  for (const double p : {1e-9, 0.5, 0.99}) {
    check({1, 140, 2, 64}, DType::bf16, {p, dropout.key, dropout.first_sequence});
  }
}

// With equal scores and values of 1, y counts who is kept: the expected number of them, within five
// standard deviations. (Rounding y hides less than one in 2^8 of a row, up or down.)
TEST(CudaAttention, DropsTheFractionAskedFor) {
  SKIP_WITHOUT_GPU();
  const int64_t tokens = 1024, heads = 4, dim = 64;
  Tensor qkv = Tensor::zeros({1, tokens, 3, heads, dim}, DType::f32);
  for (int64_t t = 0; t < tokens; ++t) {
    std::fill_n(qkv.data<float>() + (t * 3 + 2) * heads * dim, heads * dim, 1.0f);
  }
  for (const double p : {0.2, 0.5}) {  // 1 / (1 - p) is a bf16: no rounding leans to one side
    Tensor y({1, tokens, heads * dim}, DType::bf16, kGpu),
        lse({1, heads, tokens}, DType::f32, kGpu);
    kernels::attention_forward(on_gpu(qkv.to(DType::bf16)),
                               {p, {1, RngPurpose::attention_dropout, 0, 0}}, y, lse);
    const std::vector<double> got = y.to(kCpu).to(DType::f64).to_vector();
    double kept = 0, all = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        const auto i = static_cast<size_t>((t * heads + h) * dim);
        kept += got[i] * static_cast<double>(t + 1) * (1 - p), all += static_cast<double>(t + 1);
        EXPECT_EQ(got[i], got[i + dim - 1]);
      }
    }
    EXPECT_NEAR(kept / all, 1 - p, 5 * std::sqrt(p * (1 - p) / all) + 0x1p-12);
  }
}

TEST(CudaAttention, TakesNoTokens) {
  SKIP_WITHOUT_GPU();
  const Tensor qkv({0, 5, 3, 2, 64}, DType::bf16);
  EXPECT_EQ(on_device(qkv, Tensor({0, 5, 128}, DType::bf16), {}).dqkv.numel(), 0);
}

// Tokens [begin, begin + n) of every sequence.
Tensor tokens_of(const Tensor& x, int64_t begin, int64_t n) {
  const int64_t batch = x.dim(0), row = x.bytes() / (x.dim(0) * x.dim(1));
  Shape shape = x.shape();
  shape[1] = n;
  Tensor part(shape, x.dtype());
  for (int64_t b = 0; b < batch; ++b) {
    std::memcpy(static_cast<char*>(part.raw()) + b * n * row,
                static_cast<const char*>(x.raw()) + (b * x.dim(1) + begin) * row,
                static_cast<size_t>(n * row));
  }
  return part;
}

// A sequence goes through a cache in pieces; the cache starts full of what is not a number.
void check_cached(const Sizes& s, DType type, const std::vector<int64_t>& pieces) {
  const std::string name = name_of(s, type);
  const Tensor qkv = normal({s.batch, s.tokens, 3, s.heads, s.dim}, type, 1, 3);
  const Tensor dy = Tensor::zeros({s.batch, s.tokens, s.heads * s.dim}, type);
  const Truth want = truth(s, qkv, dy, {});
  Tensor cache = poison(Tensor({s.batch, s.tokens + 3, 2, s.heads, s.dim}, type, kGpu));
  Tensor cpu_cache = poison(Tensor(cache.shape(), type));
  int64_t done = 0;
  for (const int64_t n : pieces) {
    const std::vector<int32_t> lengths(static_cast<size_t>(s.batch), static_cast<int32_t>(done));
    const Tensor part = tokens_of(qkv, done, n), length = Tensor::from(lengths, {s.batch});
    Tensor y = poison(Tensor({s.batch, n, s.heads * s.dim}, type, kGpu)), cpu_y(y.shape(), type);
    kernels::attention_cached(on_gpu(part), on_gpu(length), cache, y);
    kernels::attention_cached(part, length, cpu_cache, cpu_y);
    expect_close(tokens_of(want.y, done, n), y, tokens_of(want.y_bound, done, n),
                 name + " after " + std::to_string(done));
    expect_same_bits(cpu_cache, cache, name + " cache after " + std::to_string(done));
    done += n;
  }
}

TEST(CudaAttention, CachedTokensMatchTheWholeSequence) {
  SKIP_WITHOUT_GPU();
  for (const DType type : {DType::f32, DType::bf16}) {
    for (const int64_t dim : {16, 32, 64, 128, 40}) {
      check_cached({3, 205, 3, dim}, type, {130, 1, 1, 1, 58, 2, 4, 1, 5, 1, 1});
    }
  }
  check_cached({1, 70, 2, 64}, DType::bf16, std::vector<int64_t>(70, 1));
  check_cached({1, 9, 1, 33}, DType::f32, {1, 1, 3, 4});
}

// What a decode step gives a token does not depend on how many tokens travel with it.
TEST(CudaAttention, DecodeStepsOfAnySizeGiveTheSameBits) {
  SKIP_WITHOUT_GPU();
  const Sizes s{2, 104, 3, 64};
  const Tensor qkv = normal({s.batch, s.tokens, 3, s.heads, s.dim}, DType::bf16, 1, 4);
  Tensor caches[2], ys[2];
  for (const int64_t step : {1, 4}) {
    Tensor cache = poison(Tensor({s.batch, 128, 2, s.heads, s.dim}, DType::bf16, kGpu));
    std::vector<double> y_all;
    for (int64_t done = 0; done < s.tokens; done += step) {
      const std::vector<int32_t> lengths(2, static_cast<int32_t>(done));
      Tensor y = poison(Tensor({s.batch, step, s.heads * s.dim}, DType::bf16, kGpu));
      kernels::attention_cached(on_gpu(tokens_of(qkv, done, step)),
                                on_gpu(Tensor::from(lengths, {2})), cache, y);
      for (int64_t t = 0; t < step; ++t) {
        const std::vector<double> row = tokens_of(y.to(kCpu), t, 1).to_vector();
        y_all.insert(y_all.end(), row.begin(), row.end());
      }
    }
    const auto i = static_cast<size_t>(step == 4);
    caches[i] = cache, ys[i] = Tensor::from(y_all, {static_cast<int64_t>(y_all.size())});
  }
  expect_same_bits(caches[0], caches[1], "cache");
  expect_same_bits(ys[0], ys[1], "y");
}

TEST(CudaAttention, CacheServesSequencesOfDifferentLengths) {
  SKIP_WITHOUT_GPU();
  const Sizes s{1, 90, 3, 64};
  for (const DType type : {DType::f32, DType::bf16}) {
    const Tensor qkv = normal({1, s.tokens, 3, s.heads, s.dim}, type, 1, 5);
    const Truth want = truth(s, qkv, Tensor::zeros({1, s.tokens, s.heads * s.dim}, type), {});
    const std::vector<int32_t> lengths = {40, 77};
    const int64_t row = s.heads * s.dim * size_of(type);
    Tensor cache = Tensor::zeros({2, s.tokens, 2, s.heads, s.dim}, type);
    Tensor next({2, 1, 3, s.heads, s.dim}, type);
    for (int64_t b = 0; b < 2; ++b) {
      const auto* from = static_cast<const char*>(qkv.raw());
      for (int64_t t = 0; t < lengths[static_cast<size_t>(b)]; ++t) {
        std::memcpy(static_cast<char*>(cache.raw()) + (b * s.tokens + t) * 2 * row,
                    from + (t * 3 + 1) * row, static_cast<size_t>(2 * row));
      }
      std::memcpy(static_cast<char*>(next.raw()) + b * 3 * row,
                  from + lengths[static_cast<size_t>(b)] * 3 * row, static_cast<size_t>(3 * row));
    }
    Tensor y = poison(Tensor({2, 1, s.heads * s.dim}, type, kGpu)), on_device = on_gpu(cache);
    kernels::attention_cached(on_gpu(next), on_gpu(Tensor::from(lengths, {2})), on_device, y);
    for (int64_t b = 0; b < 2; ++b) {
      const int64_t t = lengths[static_cast<size_t>(b)];
      expect_close(tokens_of(want.y, t, 1), y.to(kCpu).rows(b, b + 1),
                   tokens_of(want.y_bound, t, 1), "sequence " + std::to_string(b));
    }
  }
}

}  // namespace
}  // namespace pyramoe::gputest
