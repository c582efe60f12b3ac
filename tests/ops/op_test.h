// The op-test harness: a test is a row, OP_TEST(name, {...}).
//
// A row says how to make inputs, what the op is and what plain loops say it should give. `check_op`
// then checks the value and the gradient in f64, f32 and bf16, that runs and thread counts agree
// bit for bit, and that gradients land in their place; in a build with CUDA, that its kernels agree
// with the CPU. Every op of autograd/ops.h must have a row
// (house_test.cpp). Tolerances are one table, in op_test.cpp.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "autograd/ops.h"
#include "autograd/var.h"

namespace pyramoe::optest {

// One input: how to make it. Floating inputs are made in f64 and rounded to the dtype under test.
struct Input {
  std::function<Tensor(uint64_t seed)> make;
  bool differentiable = true;
  bool keep_dtype = false;  // stays as made: ids, f64 weights
};
using Inputs = std::vector<Input>;

Input normal(Shape shape, double scale = 1);              // N(0, scale^2)
Input uniform(Shape shape, double low, double high);      // [low, high)
Input ids(Shape shape, int64_t below, int64_t from = 0);  // i32 in [from, below), no gradient
Input constant(Input input);                              // the same, without a gradient
Input values(std::vector<double> v, Shape shape);         // these numbers, differentiable
Input int_values(std::vector<int32_t> v, Shape shape);    // these i32, no gradient
Input f64_values(std::vector<double> v);                  // f64 whatever the dtype, no gradient

// One or several results.
struct Outputs : Vars {
  Outputs(Var y) : Vars{std::move(y)} {}
  Outputs(Vars y) : Vars(std::move(y)) {}
};
struct Expected : Tensors {
  Expected(Tensor y) : Tensors{std::move(y)} {}
  Expected(Tensors y) : Tensors(std::move(y)) {}
};

// How much rounding an op does; picks the line of the tolerance table.
enum class Rounding { exact, elementwise, rows, products };

struct OpRow {
  Inputs inputs;
  std::function<Outputs(const Vars&)> f;
  std::function<Expected(const Tensors&)> expect;  // plain loops over f64
  std::vector<Inputs> also = {};                   // more sizes for the same f and expect
  Rounding rounding = Rounding::rows;
  double loosen = 1;  // times the table's f32 and bf16 tolerances; needs `why`
  std::string why = {};
  bool narrow = true;  // also in f32 and bf16; false needs `why`
};

// All that is wrong with the op, in words; empty when nothing is.
std::vector<std::string> check_op(const OpRow& row);
// The same of its CUDA kernels, against the CPU: f32 and bf16.
std::vector<std::string> check_op_on_cuda(const OpRow& row);

// A tensor of f64 with element i = f(i).
Tensor make(Shape shape, const std::function<double(int64_t)>& f);

// Names of all rows in this program.
std::set<std::string>& op_names();
struct Register {
  explicit Register(const char* name) { op_names().insert(name); }
};

}  // namespace pyramoe::optest

// In a build with CUDA each row is a second test, which a machine without a GPU skips.
#if defined(PYRAMOE_CUDA)
#define PM_CUDA_OP_TEST(name)                                                                 \
  TEST(OpOnCuda, name) {                                                                      \
    if (!::pyramoe::cuda_available()) GTEST_SKIP() << "no CUDA device here";                  \
    for (const std::string& problem : ::pyramoe::optest::check_op_on_cuda(pm_row_##name())) { \
      ADD_FAILURE() << problem;                                                               \
    }                                                                                         \
  }
#else
#define PM_CUDA_OP_TEST(name)
#endif

#define OP_TEST(name, ...)                                                            \
  static const ::pyramoe::optest::Register pm_register_##name(#name);                 \
  static ::pyramoe::optest::OpRow pm_row_##name() { return __VA_ARGS__; }             \
  TEST(Op, name) {                                                                    \
    for (const std::string& problem : ::pyramoe::optest::check_op(pm_row_##name())) { \
      ADD_FAILURE() << problem;                                                       \
    }                                                                                 \
  }                                                                                   \
  PM_CUDA_OP_TEST(name)                                                               \
  static_assert(true)
