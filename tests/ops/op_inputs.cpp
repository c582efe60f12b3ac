// Inputs for op rows, drawn from the counter-based generator, and the registry of rows.
#include <cstdlib>

#include "core/rng.h"
#include "tests/ops/op_test.h"

namespace pyramoe::optest {
namespace {

// Fresh tensors hold NaN in these tests: what nobody wrote shows.
[[maybe_unused]] const bool fills_with_nan = [] {
  return setenv("PYRAMOE_FILL_NAN", "1", 1) == 0;
}();

RngKey input_key(uint64_t seed) { return {.seed = seed, .purpose = RngPurpose::test, .layer = 1}; }

}  // namespace

Tensor make(Shape shape, const std::function<double(int64_t)>& f) {
  Tensor x(std::move(shape), DType::f64);
  for (int64_t i = 0; i < x.numel(); ++i) x.data<double>()[i] = f(i);
  return x;
}

Input normal(Shape shape, double scale) {
  return {.make = [=](uint64_t seed) {
    return make(shape, [=](int64_t i) {
      return scale * random_normal(input_key(seed), static_cast<uint64_t>(i));
    });
  }};
}

Input uniform(Shape shape, double low, double high) {
  return {.make = [=](uint64_t seed) {
    return make(shape, [=](int64_t i) {
      const auto u = static_cast<double>(random_uniform(input_key(seed), static_cast<uint64_t>(i)));
      return low + (high - low) * u;
    });
  }};
}

Input ids(Shape shape, int64_t below, int64_t from) {
  return {.make =
              [=](uint64_t seed) {
                Tensor x(shape, DType::i32);
                for (int64_t i = 0; i < x.numel(); ++i) {
                  const uint32_t word = random_u32(input_key(seed), static_cast<uint64_t>(i));
                  x.data<int32_t>()[i] =
                      static_cast<int32_t>(from + static_cast<int64_t>(word) % (below - from));
                }
                return x;
              },
          .differentiable = false,
          .keep_dtype = true};
}

Input constant(Input input) {
  input.differentiable = false;
  return input;
}

Input values(std::vector<double> v, Shape shape) {
  return {.make = [=](uint64_t) { return Tensor::from(v, shape); }};
}

Input int_values(std::vector<int32_t> v, Shape shape) {
  return {.make = [=](uint64_t) { return Tensor::from(v, shape); },
          .differentiable = false,
          .keep_dtype = true};
}

Input f64_values(std::vector<double> v) {
  const auto n = static_cast<int64_t>(v.size());
  return {.make = [=](uint64_t) { return Tensor::from(v, {n}); },
          .differentiable = false,
          .keep_dtype = true};
}

std::set<std::string>& op_names() {
  static std::set<std::string> names;
  return names;
}

}  // namespace pyramoe::optest
