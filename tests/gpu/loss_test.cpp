// Loss twins: cross-entropy and distillation, vocabularies of one word, odd ones and GPT-2's.
#include "core/kernels/loss.h"

#include "tests/gpu/twins.h"

namespace pyramoe::gputest {
namespace {

const std::vector<Shape> kShapes = fitting({{2, 1},
                                            {3, 5},
                                            {31, 33},
                                            {9, 1025},
                                            {40, 4096},
                                            {5, 50257},
                                            {40, 50304},
                                            {2, 131072},
                                            {0, 64}});

// e^x from the special-function unit, and an exponent of size up to 30 rounded to 2^-24 of itself.
constexpr double kExp = 64 * 0x1p-24;

struct Loss {
  Call call;  // logits, target
  Twins forward;
};
Loss cross_entropy(const Shape& shape, DType d, const std::string& what) {
  Loss l{{{normal(shape, d, 3), ids({shape[0]}, shape[1], -1)},
          {Tensor({shape[0]}, DType::f32), Tensor({shape[0]}, DType::f32)}},
         {}};
  l.forward = run_twins(
      l.call,
      [](const Tensors& x, Tensors& y) { kernels::cross_entropy_forward(x[0], x[1], y[0], y[1]); },
      {}, what);
  return l;
}

TEST(CrossEntropy, ForwardAgrees) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (const Shape& shape : kShapes) {
      const std::string what = name_of("cross_entropy_forward", d, shape);
      const Loss l = cross_entropy(shape, d, what);
      expect_close(l.forward.cpu[0], l.forward.gpu[0], kExp, kExp, what + " loss");
      expect_close(l.forward.cpu[1], l.forward.gpu[1], kExp, kExp, what + " lse");
    }
  }
}

TEST(CrossEntropy, BackwardAgreesAlsoInPlace) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (const Shape& shape : kShapes) {
      const std::string what = name_of("cross_entropy_backward", d, shape);
      const Loss l = cross_entropy(shape, d, what);
      const Tensor lse = l.forward.cpu[1], dloss = Tensor::scalar(0.7, DType::f32);
      const double g = 0.7 / static_cast<double>(shape[0] + 3);
      const Call call{{dloss, l.call.in[0], l.call.in[1], lse}, {Tensor(shape, d)}};
      const Twins t = run_twins(
          call,
          [&](const Tensors& x, Tensors& y) {
            kernels::cross_entropy_backward(x[0], x[1], x[2], x[3], shape[0] + 3, y[0]);
          },
          {}, what);
      expect_close(t.cpu[0], t.gpu[0], 2 * unit_roundoff(d) + kExp, 4 * 0x1p-24 * g, what);
      const Call in_place{{dloss, l.call.in[1], lse}, {l.call.in[0]}};
      const Twins over = run_twins(
          in_place,
          [&](const Tensors& x, Tensors& y) {
            kernels::cross_entropy_backward(x[0], y[0], x[1], x[2], shape[0] + 3, y[0]);
          },
          {0}, what + " in place");
      expect_same_bits(t.gpu[0], over.gpu[0], what + " in place");
    }
  }
}

TEST(CrossEntropy, OutputsThatStartElsewhereInALineAgree) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    const Loss l = cross_entropy({31, 96}, d, "off border");
    const Tensor x = on_gpu(l.call.in[0]), target = on_gpu(l.call.in[1]);
    const Tensor one = on_gpu(Tensor::scalar(1, DType::f32));
    Tensor near = poisoned_like(x), far = off_border(near);
    kernels::cross_entropy_backward(one, x, target, l.forward.gpu[1], 31, near);
    kernels::cross_entropy_backward(one, x, target, l.forward.gpu[1], 31, far);
    expect_same_bits(near, far, "off border");
  }
}

// More rows than a card has room for at once, so blocks walk to their next row.
TEST(CrossEntropy, InPlaceAgrees) {
  SKIP_WITHOUT_GPU();
  std::vector<Shape> shapes = kShapes;
  shapes.push_back({3000, 1032});
  shapes.push_back({700, 8});
  for (DType d : kNarrow) {
    for (const Shape& shape : shapes) {
      const std::string what = name_of("cross_entropy_in_place", d, shape);
      const Call call{{ids({shape[0]}, shape[1], -1)},
                      {normal(shape, d, 3), Tensor({shape[0]}, DType::f32)}};
      const Twins t = run_twins(
          call,
          [&](const Tensors& x, Tensors& y) {
            kernels::cross_entropy_in_place(x[0], shape[0] + 3, y[0], y[1]);
          },
          {0}, what);
      const double g = 1 / static_cast<double>(shape[0] + 3);
      expect_close(t.cpu[0], t.gpu[0], 2 * unit_roundoff(d) + kExp, 4 * 0x1p-24 * g, what);
      expect_close(t.cpu[1], t.gpu[1], kExp, kExp, what + " loss");
    }
  }
}

TEST(CrossEntropy, LargeAndMaskedLogitsStayFinite) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (int64_t v : {int64_t{40}, int64_t{5000}}) {
      Tensor x = normal({4, v}, DType::f64, 5);
      for (int64_t i = 0; i < v; ++i) {
        x.data<double>()[i] += 1e4;
        x.data<double>()[v + i] -= 1e4;
        if (i != 3) x.data<double>()[2 * v + i] = -INFINITY;
      }
      const Call call{{x.to(d), Tensor::full({4}, DType::i32, 3)},
                      {Tensor({4}, DType::f32), Tensor({4}, DType::f32)}};
      const Twins t = run_twins(call, [](const Tensors& in, Tensors& y) {
        kernels::cross_entropy_forward(in[0], in[1], y[0], y[1]);
      });
      // Of size 1e4: a unit in the last place of f32 is 1e-3.
      expect_close(t.cpu[0], t.gpu[0], kExp, 4e-3, "loss");
      expect_close(t.cpu[1], t.gpu[1], kExp, 4e-3, "lse");
      for (double l : t.gpu[0].to_vector()) EXPECT_TRUE(std::isfinite(l));
    }
  }
}

TEST(CrossEntropy, ATargetOutsideTheVocabularyGivesNanThereAlone) {
  SKIP_WITHOUT_GPU();
  const Tensor x = on_gpu(normal({3, 40})),
               target = on_gpu(Tensor::from(std::vector<int32_t>{1, 40, 2}, {3}));
  Tensor loss({3}, DType::f32, kGpu), lse({3}, DType::f32, kGpu), dx = poisoned_like(x);
  kernels::cross_entropy_forward(x, target, loss, lse);
  kernels::cross_entropy_backward(on_gpu(Tensor::scalar(1, DType::f32)), x, target, lse, 3, dx);
  for (int pass = 0; pass < 2; ++pass) {
    const std::vector<double> l = loss.to_vector(), g = dx.to_vector();
    for (size_t n = 0; n < 3; ++n) {
      EXPECT_EQ(std::isnan(l[n]), n == 1);
      EXPECT_EQ(std::isnan(g[n * 40 + 7]), n == 1);
    }
    dx.copy_from(x);
    poison(loss);
    kernels::cross_entropy_in_place(target, 3, dx, loss);
  }
}

TEST(Distill, TwinsAgree) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (const Shape& shape : kShapes) {
      const std::string what = name_of("distill", d, shape);
      const auto f32 = [&] { return Tensor({shape[0]}, DType::f32); };
      const Call call{{normal(shape, d, 2, 1), normal(shape, d, 2, 2)}, {f32(), f32(), f32()}};
      const Twins t = run_twins(
          call,
          [](const Tensors& x, Tensors& y) {
            kernels::distill_forward(x[0], x[1], 2.5, y[0], y[1], y[2]);
          },
          {}, what);
      // Differences of logarithms of size 15 at most, times T^2.
      expect_close(t.cpu[0], t.gpu[0], kExp, 8 * kExp * 6.25, what + " loss");
      expect_close(t.cpu[1], t.gpu[1], kExp, kExp, what + " student lse");
      expect_close(t.cpu[2], t.gpu[2], kExp, kExp, what + " teacher lse");
      if (shape[0] == 0) continue;
      const Call back{{Tensor::scalar(0.7, DType::f32), call.in[0], call.in[1], t.cpu[1], t.cpu[2]},
                      {Tensor(shape, d)}};
      const Twins b = run_twins(
          back,
          [](const Tensors& x, Tensors& y) {
            kernels::distill_backward(x[0], x[1], x[2], 2.5, x[3], x[4], y[0]);
          },
          {}, what + " backward");
      const std::vector<double> want = b.cpu[0].to_vector(), s = call.in[0].to_vector(),
                                te = call.in[1].to_vector(), ls = t.cpu[1].to_vector(),
                                lt = t.cpu[2].to_vector();
      const double g = 0.7 / static_cast<double>(shape[0]) * 2.5;
      expect_close(
          b.cpu[0], b.gpu[0],
          [&](int64_t i) {
            const auto k = static_cast<size_t>(i), n = static_cast<size_t>(i / shape[1]);
            const double p = std::exp(s[k] / 2.5 - ls[n]) + std::exp(te[k] / 2.5 - lt[n]);
            return 2 * unit_roundoff(d) * std::abs(want[k]) + g * kExp * p;
          },
          what + " backward");
    }
  }
}

// |want|'s rounding, and what e^x's error does to each of the three terms of a gradient. The losses
// are sums of terms whose logarithms have size 15 at most.
void check_in_place(const Shape& shape, DType d, double temperature, double ce, double kd) {
  const std::string what = name_of("distill_in_place", d, shape) + cat(" T ", temperature);
  const auto f32 = [&] { return Tensor({shape[0]}, DType::f32); };
  const Tensor student = normal(shape, d, 2, 1), teacher = normal(shape, d, 2, 2);
  const int64_t tokens = shape[0] + 3;
  const Call call{{ids({shape[0]}, shape[1], -std::max<int64_t>(1, shape[1] / 4)), teacher,
                   Tensor::from(std::vector<double>{ce, kd}, {2})},
                  {student, f32(), f32()}};
  const Twins t = run_twins(
      call,
      [&](const Tensors& x, Tensors& y) {
        kernels::distill_in_place(x[0], x[1], temperature, x[2], tokens, y[0], y[1], y[2]);
      },
      {0}, what);
  expect_close(t.cpu[1], t.gpu[1], kExp, kExp, what + " loss");
  expect_close(t.cpu[2], t.gpu[2], kExp, 8 * kExp * temperature * temperature, what + " distill");
  if (shape[0] == 0) return;
  const auto lse = [&](const Tensor& x, double factor) {
    std::vector<double> all;
    const std::vector<double> values = x.to_vector();
    for (int64_t n = 0; n < shape[0]; ++n) {
      double sum = 0;
      for (int64_t j = 0; j < shape[1]; ++j) {
        sum += std::exp(factor * values[static_cast<size_t>(n * shape[1] + j)]);
      }
      all.push_back(std::log(sum));
    }
    return all;
  };
  const std::vector<double> want = t.cpu[0].to_vector(), s = student.to_vector(),
                            te = teacher.to_vector(), l = lse(student, 1),
                            ls = lse(student, 1 / temperature), lt = lse(teacher, 1 / temperature);
  const double g = ce / static_cast<double>(tokens),
               gk = kd * temperature / static_cast<double>(tokens);
  expect_close(
      t.cpu[0], t.gpu[0],
      [&](int64_t i) {
        const auto k = static_cast<size_t>(i), n = static_cast<size_t>(i / shape[1]);
        const double p = g * std::exp(s[k] - l[n]);
        const double q =
            gk * (std::exp(s[k] / temperature - ls[n]) + std::exp(te[k] / temperature - lt[n]));
        return 2 * unit_roundoff(d) * std::abs(want[k]) + kExp * (p + q) + 4 * 0x1p-24 * g;
      },
      what + " gradient");
}

// Rows kept in shared memory, rows that do not fit or start off a border, and more rows than a card
// has room for at once.
TEST(Distill, InPlaceAgrees) {
  SKIP_WITHOUT_GPU();
  std::vector<Shape> shapes = kShapes;
  shapes.push_back({700, 1032});
  shapes.push_back({1500, 8});
  shapes.push_back({3, 28672});
  for (DType d : kNarrow) {
    for (const Shape& shape : shapes) {
      check_in_place(shape, d, 1, 1, 0.7);
      check_in_place(shape, d, 2, 0.5, 1);
    }
    check_in_place({31, 264}, d, 2.5, 0, 1);
    check_in_place({31, 264}, d, 1, 1, 0);
  }
}

TEST(Distill, InPlaceOfATeacherThatIsTheStudentIsZero) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (const int64_t v : {int64_t{33}, int64_t{1032}, int64_t{50304}}) {
      for (const double temperature : {1.0, 2.0}) {
        const Tensor teacher = on_gpu(normal({5, v}, d, 3));
        const Tensor share = on_gpu(Tensor::from(std::vector<double>{0, 1}, {2}));
        const Tensor target = on_gpu(ids({5}, v, -3));
        Tensor x = teacher.clone(), loss({5}, DType::f32, kGpu), distill = empty_like(loss);
        kernels::distill_in_place(target, teacher, temperature, share, 5, x, loss, distill);
        for (const double k : distill.to_vector()) EXPECT_EQ(k, 0);
        for (const double dx : x.to_vector()) ASSERT_EQ(dx, 0);
      }
    }
  }
}

TEST(Distill, ATargetOutsideTheVocabularyGivesNanThereAlone) {
  SKIP_WITHOUT_GPU();
  for (const int64_t v : {int64_t{40}, int64_t{41}}) {
    const Tensor target = on_gpu(Tensor::from(std::vector<int32_t>{1, 41, -1}, {3}));
    const Tensor teacher = on_gpu(normal({3, v}, DType::f32, 1, 2));
    const Tensor share = on_gpu(Tensor::from(std::vector<double>{1, 1}, {2}));
    Tensor x = on_gpu(normal({3, v})), loss({3}, DType::f32, kGpu), distill = empty_like(loss);
    kernels::distill_in_place(target, teacher, 2, share, 3, x, loss, distill);
    const std::vector<double> l = loss.to_vector(), g = x.to_vector();
    for (int64_t n = 0; n < 3; ++n) {
      EXPECT_EQ(std::isnan(l[static_cast<size_t>(n)]), n == 1);
      EXPECT_EQ(std::isnan(g[static_cast<size_t>(n * v + 7)]), n == 1);
    }
  }
}

}  // namespace
}  // namespace pyramoe::gputest
