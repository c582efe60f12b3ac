// CUDA twins of the grouped products against f64 CPU twins of the same (rounded) inputs.
//
// Element i may be off by one rounding of the result plus what f32 sums of its terms may lose: the
// sum of |terms| comes from the same CPU kernel fed with absolute values. Rows behind the last
// segment are NaN on the way in and must keep what they held. Sizes that are multiples of 8 take
// wgmma in bf16, the others (and PYRAMOE_PORTABLE=1) the portable kernels.
#include <algorithm>
#include <limits>

#include "core/kernels/matmul.h"
#include "cuda/grouped.h"
#include "cuda/launch.cuh"
#include "tests/gpu/support.h"

namespace pyramoe::gputest {
namespace {

struct Case {
  const char* name;
  std::vector<int32_t> offsets;
  int64_t tail, m, k;
};

const std::vector<Case> kCases = {{"odd", {0, 0, 5, 6, 6, 60, 60}, 4, 37, 21},
                                  {"odd rows of aligned width", {3, 3, 140, 140, 275}, 3, 136, 67},
                                  {"one row", {0, 1}, 0, 1, 1},
                                  {"small", {0, 0, 5, 6, 6, 60, 60}, 4, 72, 40},
                                  {"whole tiles", {0, 128, 128, 320, 448}, 0, 256, 128},
                                  {"ragged", {0, 130, 131, 131, 260, 460}, 9, 264, 200},
                                  {"one expert has all", {0, 0, 300, 300}, 20, 512, 192},
                                  {"around 64 rows", {0, 64, 127, 192, 257}, 3, 320, 328},
                                  {"few rows", {0, 0, 2, 3, 3, 5}, 2, 136, 264},
                                  {"few rows from the second on", {1, 2, 2, 3}, 5, 31, 1032},
                                  {"many row tiles", {0, 2500, 2501, 2700}, 1, 264, 72},
                                  {"pairs of tiles", {0, 257, 257, 640}, 7, 512, 320},
                                  {"an odd number of tiles", {0, 130, 500}, 0, 384, 512}};

Tensor absolute(const Tensor& x) {
  Tensor y = x.to(DType::f64).clone();
  for (double& v : y.span<double>()) v = std::abs(v);
  return y;
}

// The inputs of a case in one dtype, and what the CPU makes of them in f64.
struct Inputs {
  const Case& c;
  DType dtype;
  int64_t experts, used, rows;
  Tensor offsets, x, dy, w, bias, pre;  // on the CPU; the tail of x, dy, pre is NaN
  Inputs(const Case& which, DType type)
      : c(which),
        dtype(type),
        experts(static_cast<int64_t>(c.offsets.size()) - 1),
        used(c.offsets.back()),
        rows(used + c.tail),
        offsets(Tensor::from(c.offsets, {experts + 1})),
        x(with_tail(c.k, 1)),
        dy(with_tail(c.m, 2)),
        w(normal({experts, c.m, c.k}, type, 0.3, 3)),
        bias(normal({experts, c.m}, type, 1, 4)),
        pre(with_tail(c.k, 5)) {}
  Tensor with_tail(int64_t width, uint64_t seed) const {
    Tensor all({rows, width}, DType::f64);
    const Tensor values = normal({used, width}, DType::f64, 1, seed);
    std::fill(all.span<double>().begin(), all.span<double>().end(),
              std::numeric_limits<double>::quiet_NaN());
    if (used > 0) all.rows(0, used).copy_from(values);
    return all.to(dtype);
  }
};

Tensor wide(const Tensor& x) { return x.to(DType::f64); }

// want + bound for a result of `type` with sums of |terms| `terms`; `roundings` of the result.
void expect_product(const Inputs& in, const Tensor& want, const Tensor& got, const Tensor& terms,
                    double roundings, const std::string& what) {
  const double last = roundings * unit_roundoff(got.dtype());
  const double sums = 16 * unit_roundoff(DType::f32);
  const std::vector<double> v = want.to_vector(), t = terms.to_vector();
  expect_close(
      want, got,
      [&](int64_t i) {
        const auto at = static_cast<size_t>(i);
        return last * std::abs(v[at]) + sums * t[at];
      },
      cat(in.c.name, " ", to_string(in.dtype), " ", what));
}

// Rows from the first to the last segment; the rest of a poisoned result must still be poison.
Tensor body(const Inputs& in, const Tensor& x) { return x.rows(in.c.offsets.front(), in.used); }
void expect_tail_kept(const Inputs& in, const Tensor& got, const Tensor& before,
                      const std::string& what) {
  expect_same_bits(got.rows(in.used, in.rows), before.rows(in.used, in.rows),
                   cat(in.c.name, " ", what, ": rows behind the last segment"));
  expect_same_bits(got.rows(0, in.c.offsets.front()), before.rows(0, in.c.offsets.front()),
                   cat(in.c.name, " ", what, ": rows before the first segment"));
}

// got += what one more rounding of a sum may shift through a factor (GELU's slope).
Tensor scaled(const Tensor& x, double factor) {
  Tensor y = x.clone();
  for (double& v : y.span<double>()) v *= factor;
  return y;
}

void check_forward(const Inputs& in, bool with_bias) {
  const Shape shape{in.rows, in.c.m};
  Tensor want(shape, DType::f64), terms(shape, DType::f64), want_pre(shape, DType::f64);
  Tensor want_gelu(shape, DType::f64);
  const Tensor none, bias = with_bias ? in.bias : none;
  const Tensor wide_bias = with_bias ? wide(bias) : none;
  kernels::grouped_linear_gelu_forward(wide(in.x), in.offsets, wide(in.w), wide_bias, want_pre,
                                       want_gelu);
  kernels::grouped_linear_forward(absolute(in.x), in.offsets, absolute(in.w),
                                  with_bias ? absolute(bias) : none, terms);
  const Tensor x = on_gpu(in.x), o = on_gpu(in.offsets), w = on_gpu(in.w);
  const Tensor b = with_bias ? on_gpu(bias) : none;
  Tensor first(shape, in.dtype), y = poisoned_like(first), again = poisoned_like(first);
  Tensor pre = poisoned_like(first), gelu = poisoned_like(first);
  const Tensor untouched = poisoned_like(first);
  kernels::grouped_linear_forward(x, o, w, b, y);
  kernels::grouped_linear_forward(x, o, w, b, again);
  kernels::grouped_linear_gelu_forward(x, o, w, b, pre, gelu);
  const std::string what = with_bias ? "forward with bias" : "forward";
  expect_product(in, body(in, want_pre), body(in, y), body(in, terms), 1, what);
  expect_same_bits(y, again, what + ", a second run");
  expect_same_bits(y, pre, what + ", before GELU");
  // GELU is taken of the rounded value; its slope is at most 1.13.
  Tensor reach = scaled(terms, 2);
  const std::vector<double> p = want_pre.to_vector();
  const double by = 1.13 * unit_roundoff(in.dtype) / (16 * unit_roundoff(DType::f32));
  for (int64_t i = 0; i < reach.numel(); ++i) {
    reach.data<double>()[i] += by * std::abs(p[static_cast<size_t>(i)]);
  }
  expect_product(in, body(in, want_gelu), body(in, gelu), body(in, reach), 1, what + ", GELU");
  expect_tail_kept(in, y, untouched, what);
  expect_tail_kept(in, gelu, untouched, what + ", GELU");
}

void check_dx(const Inputs& in) {
  const Shape shape{in.rows, in.c.k};
  Tensor want(shape, DType::f64), terms(shape, DType::f64), dpre(shape, DType::f64);
  Tensor slope(shape, DType::f64), gelu(shape, DType::f64);
  kernels::grouped_linear_dx(wide(in.dy), in.offsets, wide(in.w), want);
  kernels::grouped_linear_dx(absolute(in.dy), in.offsets, absolute(in.w), terms);
  kernels::grouped_linear_dx_gelu(wide(in.dy), in.offsets, wide(in.w), wide(in.pre), dpre, gelu);
  const Tensor dy = on_gpu(in.dy), o = on_gpu(in.offsets), w = on_gpu(in.w);
  Tensor first(shape, in.dtype), dx = poisoned_like(first), again = poisoned_like(first);
  const Tensor untouched = poisoned_like(first);
  kernels::grouped_linear_dx(dy, o, w, dx);
  kernels::grouped_linear_dx(dy, o, w, again);
  expect_product(in, body(in, want), body(in, dx), body(in, terms), 1, "dx");
  expect_same_bits(dx, again, "dx, a second run");
  expect_tail_kept(in, dx, untouched, "dx");
  // With GELU's backward pass, in the memory of pre.
  Tensor in_place = on_gpu(in.pre).clone(), y = poisoned_like(first);
  kernels::grouped_linear_dx_gelu(dy, o, w, in_place, in_place, y);
  expect_product(in, body(in, dpre), body(in, in_place), body(in, scaled(terms, 1.5)), 3,
                 "dx with GELU");
  expect_product(in, body(in, gelu), body(in, y), body(in, absolute(in.pre)),
                 in.dtype == DType::bf16 ? 1 : 8, "GELU again");
  expect_tail_kept(in, in_place, on_gpu(in.pre), "dx with GELU");
  Tensor two = poisoned_like(first);
  kernels::grouped_gelu_backward(dx, on_gpu(in.pre), o, two);
  expect_product(in, body(in, dpre), body(in, two), body(in, scaled(terms, 1.5)), 3,
                 "GELU's backward pass alone");
  expect_tail_kept(in, two, untouched, "GELU's backward pass alone");
}

void check_dw(const Inputs& in, DType grad, bool accumulate) {
  const Shape shape{in.experts, in.c.m, in.c.k}, row{in.experts, in.c.m};
  const Tensor old = normal(shape, grad, 3, 6), old_db = normal(row, grad, 3, 7);
  Tensor want = wide(old).clone(), terms = absolute(old), db = wide(old_db).clone();
  Tensor db_terms = absolute(old_db);
  kernels::grouped_linear_dw(wide(in.dy), wide(in.x), in.offsets, accumulate, want, db);
  kernels::grouped_linear_dw(absolute(in.dy), absolute(in.x), in.offsets, accumulate, terms,
                             db_terms);
  const Tensor dy = on_gpu(in.dy), x = on_gpu(in.x), o = on_gpu(in.offsets);
  const auto start = [&](const Tensor& t) {
    return accumulate ? on_gpu(t).clone() : poisoned_like(t);
  };
  Tensor dw = start(old), again = start(old), sums = start(old_db), none;
  kernels::grouped_linear_dw(dy, x, o, accumulate, dw, sums);
  kernels::grouped_linear_dw(dy, x, o, accumulate, again, none);
  const std::string what = cat("dw ", to_string(grad), accumulate ? ", added" : "");
  expect_same_bits(dw, again, what + ", a second run");
  if (accumulate && grad == DType::bf16) {  // the product is rounded before it is added
    const double by = unit_roundoff(grad) / (16 * unit_roundoff(DType::f32));
    const std::vector<double> w = want.to_vector(), from = wide(old).to_vector();
    for (size_t i = 0; i < w.size(); ++i) terms.data<double>()[i] += by * std::abs(w[i] - from[i]);
  }
  expect_product(in, want, dw, terms, 1, what);
  expect_product(in, db, sums, db_terms, 1, what + ", bias");
}

class Grouped : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(DType, Grouped, ::testing::Values(DType::f32, DType::bf16),
                         [](const auto& row) { return std::string(to_string(row.param)); });

TEST_P(Grouped, ForwardIsTheCpus) {
  SKIP_WITHOUT_GPU();
  for (const Case& c : kCases) {
    if (left_out(c.offsets.back() * std::max(c.m, c.k))) continue;
    const Inputs in(c, GetParam());
    for (bool bias : {false, true}) check_forward(in, bias);
  }
}

TEST_P(Grouped, InputGradientsAreTheCpus) {
  SKIP_WITHOUT_GPU();
  for (const Case& c : kCases) {
    if (left_out(c.offsets.back() * std::max(c.m, c.k))) continue;
    check_dx(Inputs(c, GetParam()));
  }
}

TEST_P(Grouped, WeightGradientsAreTheCpus) {
  SKIP_WITHOUT_GPU();
  for (const Case& c : kCases) {
    if (left_out(c.offsets.back() * std::max(c.m, c.k))) continue;
    const Inputs in(c, GetParam());
    for (bool accumulate : {false, true}) {
      check_dw(in, GetParam(), accumulate);
      if (GetParam() == DType::bf16) check_dw(in, DType::f32, accumulate);
    }
  }
}

// A block's tiles overlap: one goes out while the next is multiplied. These cases have fewer tiles
// than the card has multiprocessors; two of them take the tiles in turn.
struct InTurn {
  gpu::grouped::Form form;
  gpu::grouped::Finish finish = gpu::grouped::Finish::plain;
  bool bias = false, wide = false, accumulate = false;
};

void check_in_turn(const Inputs& in, const InTurn& v) {
  using gpu::grouped::Finish, gpu::grouped::Form, gpu::grouped::Product;
  const bool forward = v.form == Form::forward, dw = v.form == Form::dw;
  const Shape shape =
      dw ? Shape{in.experts, in.c.m, in.c.k} : Shape{in.rows, forward ? in.c.m : in.c.k};
  const Tensor a = on_gpu(forward ? in.x : in.dy), b = on_gpu(dw ? in.x : in.w);
  const Tensor offsets = on_gpu(in.offsets), bias = on_gpu(in.bias), pre = on_gpu(in.pre);
  const Tensor old = on_gpu(normal(shape, v.wide ? DType::f32 : DType::bf16, 3, 8));
  std::vector<Tensor> c, extra;
  for (const int multiprocessors : {gpu::multiprocessors(), 2}) {
    c.push_back(v.finish == Finish::gelu_backward ? pre.clone() : old.clone());
    extra.push_back(old.clone());
    const Product p{.form = v.form,
                    .finish = v.finish,
                    .a = a.raw(),
                    .b = b.raw(),
                    .c = c.back().raw(),
                    .bias = v.bias ? bias.raw() : nullptr,
                    .pre = v.finish == Finish::gelu_backward ? c.back().raw() : nullptr,
                    .extra = v.finish == Finish::plain ? nullptr : extra.back().raw(),
                    .offsets = static_cast<const int32_t*>(offsets.raw()),
                    .experts = in.experts,
                    .rows = in.rows,
                    .m = in.c.m,
                    .k = in.c.k,
                    .bf16 = true,
                    .wide = v.wide,
                    .accumulate = v.accumulate};
    if (!gpu::grouped::fits_hopper(p)) return;
    gpu::grouped::hopper(p, multiprocessors, gpu::stream());
  }
  const std::string what =
      cat(in.c.name, ", form ", static_cast<int>(v.form), ", finish ", static_cast<int>(v.finish),
          v.bias ? ", bias" : "", v.wide ? ", f32" : "", v.accumulate ? ", added" : "");
  expect_same_bits(c[0], c[1], what);
  expect_same_bits(extra[0], extra[1], what + ", the second result");
}

TEST(GroupedOnHopper, TilesInTurnGiveTheBitsOfTilesAtOnce) {
  SKIP_WITHOUT_GPU();
  if (!gpu::has_hopper_kernels()) GTEST_SKIP() << "these kernels are Hopper's";
  using gpu::grouped::Finish, gpu::grouped::Form;
  for (const Case& c : kCases) {
    if (left_out(c.offsets.back() * std::max(c.m, c.k))) continue;
    const Inputs in(c, DType::bf16);
    for (bool bias : {false, true}) {
      check_in_turn(in, {.form = Form::forward, .bias = bias});
      check_in_turn(in, {.form = Form::forward, .finish = Finish::gelu, .bias = bias});
    }
    check_in_turn(in, {.form = Form::dx});
    check_in_turn(in, {.form = Form::dx, .finish = Finish::gelu_backward});
    for (bool wide : {false, true}) {
      for (bool add : {false, true}) {
        check_in_turn(in, {.form = Form::dw, .wide = wide, .accumulate = add});
      }
    }
  }
}

TEST_P(Grouped, NothingToDoIsDone) {
  SKIP_WITHOUT_GPU();
  const Tensor o = on_gpu(Tensor::from(std::vector<int32_t>{0, 0, 0}, {3}));
  const Tensor x({0, 16}, GetParam(), kGpu), dy({0, 8}, GetParam(), kGpu);
  const Tensor w = on_gpu(normal({2, 8, 16}, GetParam())), bias;
  Tensor y({0, 8}, GetParam(), kGpu), dx({0, 16}, GetParam(), kGpu);
  Tensor dw = poisoned_like(w), db = poisoned_like(Tensor({2, 8}, GetParam()));
  kernels::grouped_linear_forward(x, o, w, bias, y);
  kernels::grouped_linear_dx(dy, o, w, dx);
  kernels::grouped_linear_dw(dy, x, o, false, dw, db);
  for (double v : dw.to_vector()) EXPECT_EQ(v, 0);
  for (double v : db.to_vector()) EXPECT_EQ(v, 0);
}

}  // namespace
}  // namespace pyramoe::gputest
