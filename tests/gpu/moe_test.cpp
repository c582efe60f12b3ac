// CUDA twins of the MoE kernels against their CPU twins: integers and choices bit for bit, floats
// within a bound that follows from the inputs. Outputs start as NaN or -1, so what a kernel forgets
// to write shows; every call runs twice and must give equal bits.
#include "core/kernels/moe.h"

#include <limits>

#include "tests/gpu/support.h"

namespace pyramoe::gputest {
namespace {

using kernels::DropBy;
using Call = std::function<void(const Tensors& in, Tensors& out)>;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

struct Both {
  Tensors cpu, gpu;
};

// Runs `call` on the CPU and twice on the GPU. `outputs` gives shapes and dtypes.
Both run_both(const Tensors& inputs, const Tensors& outputs, const Call& call) {
  Both both;
  Tensors in, again;
  for (const Tensor& x : inputs) in.push_back(on_gpu(x));
  for (const Tensor& y : outputs) {
    both.cpu.push_back(poison(Tensor(y.shape(), y.dtype())));
    both.gpu.push_back(poisoned_like(y));
    again.push_back(poisoned_like(y));
  }
  call(inputs, both.cpu);
  call(in, both.gpu);
  call(in, again);
  for (size_t i = 0; i < again.size(); ++i) {
    expect_same_bits(both.gpu[i], again[i], cat("output ", i, " of a second run"));
  }
  return both;
}

void expect_equal(const Both& both, const std::string& what) {
  for (size_t i = 0; i < both.cpu.size(); ++i) {
    expect_same_bits(both.cpu[i], both.gpu[i], cat(what, ", output ", i));
  }
}

// Two f32 sums of the same terms, each rounded once to the dtype: one step of it, plus `steps`
// roundings in f32 of the sum of |terms|.
void expect_sum(const Tensor& want, const Tensor& got, const Tensor& terms, double steps,
                const std::string& what) {
  const std::vector<double> w = want.to_vector(), t = terms.to_vector();
  const double last = 2 * unit_roundoff(want.dtype());
  expect_close(
      want, got,
      [&](int64_t i) {
        const auto at = static_cast<size_t>(i);
        return last * std::abs(w[at]) + steps * 0x1p-24 * t[at];
      },
      what);
}

// Scores with many ties, infinities, and a NaN in some rows.
Tensor scores(int64_t rows, int64_t experts, DType type, uint64_t seed) {
  Tensor x({rows, experts}, DType::f64);
  const RngKey key{.seed = seed, .purpose = RngPurpose::test};
  for (int64_t i = 0; i < x.numel(); ++i) {
    const uint32_t word = random_u32(key, static_cast<uint64_t>(i));
    double v = static_cast<double>(word % 16) / 8 - 1;
    if (word % 97 == 1) v = kInf;
    if (word % 89 == 1) v = -kInf;
    if (i / experts % 7 == 3 && word % 5 == 0) v = kNan;
    x.data<double>()[i] = v;
  }
  return x.to(type);
}

const DType kTypes[] = {DType::f32, DType::bf16};

TEST(MoeGpu, TopKChoosesWhatTheCpuChooses) {
  SKIP_WITHOUT_GPU();
  for (const DType type : kTypes) {
    for (const int64_t experts : {1, 2, 31, 32, 33, 100, 128, 129, 512, 513, 1500}) {
      for (int64_t k : {int64_t{1}, int64_t{2}, int64_t{8}, int64_t{9}, experts}) {
        k = std::min(k, experts);
        const int64_t rows = k > 9 ? 9 : 61;
        for (const bool with_bias : {false, true}) {
          const Tensor bias = with_bias ? normal({experts}, type, 0.5, 5) : Tensor();
          const Both both = run_both(
              {scores(rows, experts, type, 3), bias}, {Tensor({rows, k}, DType::i32)},
              [](const Tensors& in, Tensors& out) { kernels::top_k(in[0], in[1], out[0]); });
          expect_equal(both, cat("E ", experts, " k ", k));
        }
      }
    }
    run_both({Tensor({0, 4}, type)}, {Tensor({0, 2}, DType::i32)},
             [](const Tensors& in, Tensors& out) { kernels::top_k(in[0], Tensor(), out[0]); });
  }
}

// Which experts the choices of a test want.
struct Wants {
  const char* name;
  int64_t rows, k, experts, groups;
  bool one;  // all want the last expert
  int64_t elements() const { return rows * k; }
};
const Wants kWants[] = {
    {"small", 12, 2, 5, 3, false},        {"one token", 1, 1, 1, 1, false},
    {"sequences", 2048, 1, 32, 4, false}, {"two choices", 1024, 2, 128, 2, false},
    {"odd", 999, 3, 7, 3, false},         {"many experts", 640, 8, 512, 1, false},
    {"one expert", 1536, 2, 16, 3, true}, {"very many experts", 96, 2, 13000, 2, false},
    {"long", 70000, 2, 64, 1, false},     {"nobody", 0, 2, 8, 1, false},
};

Tensor wanted(const Wants& w, uint64_t seed) {
  Tensor expert = ids({w.rows, w.k}, w.experts, 0, seed);
  if (w.one) {
    for (int32_t& e : expert.span<int32_t>()) e = static_cast<int32_t>(w.experts - 1);
  }
  return expert;
}

TEST(MoeGpu, CapacityKeepsWhomTheCpuKeeps) {
  SKIP_WITHOUT_GPU();
  for (const Wants& w : fitting(kWants)) {
    const int64_t group = w.rows > 0 ? w.rows / w.groups : 1;
    for (const DropBy order : {DropBy::position, DropBy::probability, DropBy::random}) {
      for (const int64_t capacity : {int64_t{1}, std::max<int64_t>(1, group * w.k / w.experts),
                                     group / 2 + 1, group * w.k + 5}) {
        for (const DType type : kTypes) {
          const RngKey key{.seed = 9, .purpose = RngPurpose::token_selection, .step = 3};
          const Both both =
              run_both({wanted(w, 4), scores(w.rows, w.k, type, 8)},
                       {Tensor({w.rows, w.k}, DType::u8)}, [&](const Tensors& in, Tensors& out) {
                         kernels::keep_within_capacity(in[0], in[1], w.experts, group, capacity,
                                                       order, key, 12345, out[0]);
                       });
          expect_equal(both,
                       cat(w.name, ", order ", static_cast<int>(order), ", capacity ", capacity));
        }
      }
    }
  }
}

TEST(MoeGpu, RowsOffsetsAndLoadsAreTheCpus) {
  SKIP_WITHOUT_GPU();
  for (const Wants& w : fitting(kWants)) {
    for (const bool drops : {false, true}) {
      Tensor kept = drops ? ids({w.rows, w.k}, 3, 0, 6).to(DType::i32) : Tensor();
      if (drops) {
        Tensor bytes(kept.shape(), DType::u8);
        for (int64_t i = 0; i < kept.numel(); ++i) {
          bytes.data<uint8_t>()[i] = kept.data<int32_t>()[i] != 0;
        }
        kept = bytes;
      }
      const Both both =
          run_both({wanted(w, 2), kept},
                   {Tensor({w.rows, w.k}, DType::i32), Tensor({w.experts + 1}, DType::i32),
                    Tensor({w.experts}, DType::i32)},
                   [](const Tensors& in, Tensors& out) {
                     kernels::assign_rows(in[0], in[1], out[0], out[1], out[2]);
                   });
      expect_equal(both, cat(w.name, drops ? " with drops" : ""));
    }
  }
}

TEST(MoeGpu, PlacesByPositionAndRowsInOneSort) {
  SKIP_WITHOUT_GPU();
  for (Wants w : fitting(kWants)) {
    w.k = 1;
    const int64_t group = w.rows > 0 ? w.rows / w.groups : 1;
    for (const int64_t capacity :
         {int64_t{1}, std::max<int64_t>(1, group / w.experts), group / 2 + 1, group + 5}) {
      const Both both = run_both(
          {wanted(w, 4)},
          {Tensor({w.rows, 1}, DType::i32), Tensor({w.experts + 1}, DType::i32),
           Tensor({w.experts}, DType::i32)},
          [&](const Tensors& in, Tensors& out) {
            kernels::assign_rows_by_position(in[0], group, capacity, out[0], out[1], out[2]);
          });
      expect_equal(both, cat(w.name, ", capacity ", capacity));
    }
  }
}

TEST(MoeGpu, RoundRobinAndPaddedSlots) {
  SKIP_WITHOUT_GPU();
  for (const int64_t experts : {1, 3, 8}) {
    expect_equal(run_both({Tensor({1}, DType::i32)}, {Tensor({33, 3}, DType::i32)},
                          [&](const Tensors&, Tensors& out) {
                            kernels::round_robin(1000000007, experts, out[0]);
                          }),
                 "round_robin");
  }
  const Wants w{"slots", 100, 2, 9, 1, false};
  const Tensor expert = wanted(w, 3);
  Tensor row({100, 2}, DType::i32), offsets({10}, DType::i32), load({9}, DType::i32);
  kernels::assign_rows(expert, Tensor(), row, offsets, load);
  for (int64_t i = 0; i < row.numel(); i += 5) row.data<int32_t>()[i] = -1;
  expect_equal(run_both({expert, row, offsets}, {Tensor({100, 2}, DType::i32)},
                        [](const Tensors& in, Tensors& out) {
                          kernels::padded_slots(in[0], in[1], in[2], 200, out[0]);
                        }),
               "padded_slots");
}

TEST(MoeGpu, NoiseIsDrawnByGlobalId) {
  SKIP_WITHOUT_GPU();
  const RngKey key{.seed = 7, .purpose = RngPurpose::gate_jitter, .step = 2, .layer = 5};
  for (const DType type : kTypes) {
    for (const int64_t d : {1, 3, 8, 33}) {
      for (const int64_t first : {0, 1, 11}) {
        const Tensor x = normal({37, d}, type);
        const Both jitter = run_both({x}, {x}, [&](const Tensors& in, Tensors& out) {
          kernels::jitter(in[0], 0.2, key, first, out[0]);
        });
        // The factor is a sum that may or may not be fused with its product: one step of f32.
        expect_close(jitter.cpu[0], jitter.gpu[0], 2 * unit_roundoff(type) + 2 * 0x1p-24, 0,
                     "jitter");
        const Both gumbel = run_both({x}, {x}, [&](const Tensors& in, Tensors& out) {
          kernels::add_gumbel(in[0], key, first, out[0]);
        });
        // x + g may cancel; g itself is below 23.
        expect_close(gumbel.cpu[0], gumbel.gpu[0], 2 * unit_roundoff(type), 23 * 0x1p-23, "gumbel");
      }
    }
  }
}

TEST(MoeGpu, ScoresOfRows) {
  SKIP_WITHOUT_GPU();
  for (const DType type : kTypes) {
    for (const int64_t d : {1, 5, 32, 130}) {
      Tensor x = normal({29, d}, DType::f64, 3);
      x.data<double>()[3 * d] = kNan;
      x.data<double>()[4 * d] = -200;
      x = x.to(type);
      const double u = unit_roundoff(type);
      const Both sigmoid = run_both({x}, {x}, [](const Tensors& in, Tensors& out) {
        kernels::sigmoid_rows_forward(in[0], out[0]);
      });
      expect_close(sigmoid.cpu[0], sigmoid.gpu[0], 2 * u + 8 * 0x1p-24, 1e-38, "sigmoid");
      const Tensor dy = normal({29, d}, type, 1, 4);
      const Both back = run_both({dy, sigmoid.cpu[0]}, {x}, [](const Tensors& in, Tensors& out) {
        kernels::sigmoid_rows_backward(in[0], in[1], out[0]);
      });
      expect_close(back.cpu[0], back.gpu[0], 2 * u + 4 * 0x1p-24, 1e-38, "sigmoid backward");

      Tensor p = magnitude(normal({29, d}, DType::f64));
      for (int64_t e = 0; e < d; ++e) p.data<double>()[5 * d + e] = 0;  // a sum to clamp
      p.data<double>()[6 * d] = kNan;
      p = p.to(type);
      const Both norm = run_both({p}, {p}, [](const Tensors& in, Tensors& out) {
        kernels::normalize_rows_forward(in[0], out[0]);
      });
      const double sums = static_cast<double>(d) * 0x1p-24;
      expect_close(norm.cpu[0], norm.gpu[0], 2 * u + sums, 0, "normalize");
      const Both pull = run_both({dy, p, norm.cpu[0]}, {p}, [](const Tensors& in, Tensors& out) {
        kernels::normalize_rows_backward(in[0], in[1], in[2], out[0]);
      });
      // (dy - pull) / sum: pull is a mean of the dy, so below their largest.
      const std::vector<double> g = dy.to_vector(), in = p.to_vector();
      expect_close(
          pull.cpu[0], pull.gpu[0],
          [&](int64_t i) {
            double sum = 0, most = 0;
            for (int64_t e = i / d * d; e < (i / d + 1) * d; ++e) {
              sum += in[static_cast<size_t>(e)];
              most = std::max(most, std::abs(g[static_cast<size_t>(e)]));
            }
            return (2 * u + 4 * sums) * 2 * most / std::max(sum, 0x1p-23);
          },
          "normalize backward");
    }
  }
}

TEST(MoeGpu, WeightsOfTheChosen) {
  SKIP_WITHOUT_GPU();
  for (const DType type : kTypes) {
    for (const int64_t k : {1, 2, 9}) {
      const int64_t rows = 101, experts = 37;
      const Tensor score = normal({rows, experts}, type), expert = ids({rows, k}, experts);
      expect_equal(run_both({score, expert}, {Tensor({rows, k}, type)},
                            [](const Tensors& in, Tensors& out) {
                              kernels::take_forward(in[0], in[1], out[0]);
                            }),
                   "take");
      const Tensor dweight = normal({rows, k}, type, 1, 3);
      expect_equal(run_both({dweight, expert}, {score},
                            [](const Tensors& in, Tensors& out) {
                              kernels::take_backward(in[0], in[1], out[0]);
                            }),
                   "take backward");
      const Tensor weight = magnitude(dweight).to(type), row = ids({rows, k}, 3, -1);
      for (const bool renormalize : {false, true}) {
        const double steps = static_cast<double>(k + 4);
        const Both keep = run_both({weight, row}, {weight}, [&](const Tensors& in, Tensors& out) {
          kernels::keep_weights_forward(in[0], in[1], renormalize, out[0]);
        });
        expect_close(keep.cpu[0], keep.gpu[0], 2 * unit_roundoff(type) + steps * 0x1p-24, 0,
                     "keep_weights");
        const Both back = run_both(
            {score.rows(0, rows).reshape({rows * experts}).rows(0, rows * k).reshape({rows, k}),
             weight, row},
            {weight}, [&](const Tensors& in, Tensors& out) {
              kernels::keep_weights_backward(in[0], in[1], in[2], renormalize, out[0]);
            });
        // (dkept - pull) / sum, pull below the largest dkept (4 here), sums above 1e-3.
        expect_close(back.cpu[0], back.gpu[0], 2 * unit_roundoff(type),
                     steps * 0x1p-24 * (renormalize ? 4e3 : 0), "keep_weights backward");
      }
    }
    Tensor load({40}, DType::i64), bias = normal({40}, type);
    for (int64_t e = 0; e < 40; ++e) load.data<int64_t>()[e] = 1000 + (e % 3 - 1) * 7;
    expect_equal(run_both({load, bias}, {bias},
                          [&](const Tensors& in, Tensors& out) {
                            out[0].copy_from(in[1]);
                            kernels::balance_bias_step(in[0], 0.01, out[0]);
                          }),
                 "balance_bias_step");
  }
}

TEST(MoeGpu, Losses) {
  SKIP_WITHOUT_GPU();
  struct Case {
    int64_t rows, experts, k, group;
  };
  for (const DType type : kTypes) {
    for (const Case c : {Case{6, 5, 2, 2}, Case{512, 32, 1, 128}, Case{1803, 7, 3, 601},
                         Case{300, 130, 2, 300}, Case{1, 1, 1, 1}}) {
      const double u = unit_roundoff(type);
      const Tensor p = magnitude(normal({c.rows, c.experts}, DType::f64, 0.1)).to(type);
      const Tensor expert = ids({c.rows, c.k}, c.experts);
      for (const bool all : {false, true}) {
        const Both both =
            run_both({p, expert}, {Tensor({1}, type), Tensor({c.rows / c.group, c.experts}, type)},
                     [&](const Tensors& in, Tensors& out) {
                       kernels::balance_loss_forward(in[0], in[1], c.group, all, out[0], out[1]);
                     });
        expect_close(both.cpu[0], both.gpu[0], 2 * u, 0, "balance loss");
        expect_same_bits(both.cpu[1], both.gpu[1], "share");
        const Both back = run_both({Tensor::full({1}, type, 0.375), both.cpu[1]}, {p},
                                   [&](const Tensors& in, Tensors& out) {
                                     kernels::balance_loss_backward(in[0], in[1], c.group, out[0]);
                                   });
        expect_close(back.cpu[0], back.gpu[0], 2 * u + 4 * 0x1p-24, 0, "balance loss backward");
      }
      const Tensor logits = normal({c.rows, c.experts}, type, 3);
      const Both z = run_both(
          {logits}, {Tensor({1}, type), Tensor({c.rows}, type)},
          [](const Tensors& in, Tensors& out) { kernels::z_loss_forward(in[0], out[0], out[1]); });
      // log(sum): an absolute error of the sum's relative one.
      const double sums = static_cast<double>(c.experts + 8) * 0x1p-24;
      expect_close(z.cpu[1], z.gpu[1], 2 * u, sums, "lse");
      expect_close(z.cpu[0], z.gpu[0], 4 * u + 4 * sums, 4 * sums * sums, "z loss");
      const Both back = run_both({Tensor::full({1}, type, 0.375), logits, z.cpu[1]}, {logits},
                                 [](const Tensors& in, Tensors& out) {
                                   kernels::z_loss_backward(in[0], in[1], in[2], out[0]);
                                 });
      // exp(x): the relative error is the absolute one of x, below 32 roundings of 16.
      expect_close(back.cpu[0], back.gpu[0], 2 * u + 32 * 0x1p-24, 1e-38, "z loss backward");
    }
  }
}

// Rows of a random routing: experts, drops, and what the sort makes of them.
Tensor some_rows(int64_t tokens, int64_t k, int64_t experts, bool drops) {
  Tensor row({tokens, k}, DType::i32), offsets({experts + 1}, DType::i32),
      load({experts}, DType::i32), kept;
  if (drops) {
    kept = Tensor({tokens, k}, DType::u8);
    const Tensor coin = ids({tokens, k}, 4, 0, 12);
    for (int64_t i = 0; i < kept.numel(); ++i) {
      kept.data<uint8_t>()[i] = coin.data<int32_t>()[i] != 0;
    }
    for (int64_t j = 0; j < k && tokens > 1; ++j) kept.data<uint8_t>()[k + j] = 0;  // one left out
  }
  kernels::assign_rows(ids({tokens, k}, experts, 0, 11), kept, row, offsets, load);
  return row;
}

struct Move {  // the largest: more tokens than a GPU has warps at once
  int64_t tokens, k, d;
  int64_t elements() const { return tokens * k * d; }
};
const Move kMoves[] = {{1, 1, 1},     {5, 2, 3},     {67, 1, 8},   {131, 3, 33},
                       {64, 2, 1024}, {33, 1, 1032}, {17, 9, 64},  {20, 2, 4096},
                       {9, 2, 2050},  {0, 2, 16},    {9000, 2, 16}};

TEST(MoeGpu, TokensToSegmentsAndBack) {
  SKIP_WITHOUT_GPU();
  for (const DType type : kTypes) {
    for (const Move& m : fitting(kMoves)) {
      for (const bool drops : {false, true}) {
        const std::string what = cat("N ", m.tokens, " k ", m.k, " D ", m.d, drops ? " drops" : "");
        const Tensor row = some_rows(m.tokens, m.k, 6, drops);
        const Tensor x = normal({m.tokens, m.d}, type), s = normal({m.tokens * m.k, m.d}, type);
        expect_equal(run_both({x, row}, {s},
                              [](const Tensors& in, Tensors& out) {
                                kernels::to_segments_forward(in[0], in[1], out[0]);
                              }),
                     "to_segments " + what);
        expect_equal(run_both({s, row}, {x},
                              [](const Tensors& in, Tensors& out) {
                                kernels::to_segments_backward(in[0], in[1], out[0]);
                              }),
                     "to_segments backward " + what);
        const Tensor weight = normal({m.tokens, m.k}, DType::f32, 1, 9);
        const Both sum = run_both({s, weight, row}, {x}, [](const Tensors& in, Tensors& out) {
          kernels::from_segments_forward(in[0], in[1], in[2], out[0]);
        });
        Tensor terms({m.tokens, m.d}, DType::f64);
        kernels::from_segments_forward(magnitude(s), magnitude(weight), row, terms);
        expect_sum(sum.cpu[0], sum.gpu[0], terms, static_cast<double>(2 * m.k + 1),
                   "from_segments " + what);

        const Both added = run_both({s, weight, row, x}, {x}, [](const Tensors& in, Tensors& out) {
          kernels::from_segments_add_forward(in[0], in[1], in[2], in[3], out[0]);
        });
        kernels::from_segments_add_forward(magnitude(s), magnitude(weight), row, magnitude(x),
                                           terms);
        expect_sum(added.cpu[0], added.gpu[0], terms, static_cast<double>(2 * m.k + 2),
                   "from_segments_add " + what);

        const Both back =
            run_both({x, s, weight, row}, {s, weight}, [](const Tensors& in, Tensors& out) {
              kernels::from_segments_backward(in[0], in[1], in[2], in[3], out[0], out[1]);
            });
        expect_same_bits(back.cpu[0], back.gpu[0], "from_segments dx " + what);
        Tensor dx(s.shape(), DType::f64), dots(weight.shape(), DType::f64);
        kernels::from_segments_backward(magnitude(x), magnitude(s), magnitude(weight), row, dx,
                                        dots);
        expect_sum(back.cpu[1], back.gpu[1], dots, static_cast<double>(m.d) / 4 + 8,
                   "from_segments dweight " + what);
      }
    }
  }
}

TEST(MoeGpu, OneHotForm) {
  SKIP_WITHOUT_GPU();
  for (const DType type : kTypes) {
    const int64_t tokens = 50, k = 3, width = 150;
    Tensor slot = some_rows(tokens, k, 4, true);
    const Tensor y({tokens, width}, type);
    for (const bool with_weight : {false, true}) {
      const Tensor weight = with_weight ? normal({tokens, k}) : Tensor();
      expect_equal(run_both({weight, slot}, {y},
                            [](const Tensors& in, Tensors& out) {
                              kernels::one_hot_forward(in[0], in[1], out[0]);
                            }),
                   "one_hot");
    }
    expect_equal(run_both({normal({tokens, width}, type), slot}, {Tensor({tokens, k}, DType::f32)},
                          [](const Tensors& in, Tensors& out) {
                            kernels::one_hot_backward(in[0], in[1], out[0]);
                          }),
                 "one_hot backward");
  }
}

TEST(MoeGpu, ResidualMix) {
  SKIP_WITHOUT_GPU();
  for (const DType type : kTypes) {
    for (const Move& m : fitting(kMoves)) {
      const Shape shape{m.tokens, m.d};
      const Tensor a = normal(shape, type), b = normal(shape, type, 1, 2),
                   share = normal({m.tokens, 2}, type, 1, 3), dy = normal(shape, type, 1, 4);
      const Both y = run_both({a, b, share}, {a}, [](const Tensors& in, Tensors& out) {
        kernels::mix_forward(in[0], in[1], in[2], out[0]);
      });
      Tensor terms(shape, DType::f64);
      kernels::mix_forward(magnitude(a), magnitude(b), magnitude(share), terms);
      expect_sum(y.cpu[0], y.gpu[0], terms, 4, "mix");
      const Both back =
          run_both({dy, a, b, share}, {a, b, share}, [](const Tensors& in, Tensors& out) {
            kernels::mix_backward(in[0], in[1], in[2], in[3], out[0], out[1], out[2]);
          });
      expect_same_bits(back.cpu[0], back.gpu[0], "mix da");
      expect_same_bits(back.cpu[1], back.gpu[1], "mix db");
      Tensor da(shape, DType::f64), db(shape, DType::f64), dots({m.tokens, 2}, DType::f64);
      kernels::mix_backward(magnitude(dy), magnitude(a), magnitude(b), magnitude(share), da, db,
                            dots);
      expect_sum(back.cpu[2], back.gpu[2], dots, static_cast<double>(m.d) / 4 + 8, "mix dshare");
    }
  }
}

}  // namespace
}  // namespace pyramoe::gputest
