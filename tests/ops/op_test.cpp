#include "tests/ops/op_test.h"

#include <cmath>
#include <cstring>

#include "core/parallel.h"
#include "core/rng.h"

namespace pyramoe::optest {
namespace {

// The error allowed is u (rel |y_i| + scale max|y|), u the unit roundoff (2^-24 or 2^-8): `rel` for
// the rounding of a result itself, `scale` for what sums of larger terms leave behind. In bf16 the
// sums run in f32, but saved outputs and gradients are rounded once more.
struct Tolerance {
  double rel, scale;
};
Tolerance tolerance(Rounding rounding, DType dtype) {
  const bool f32 = dtype == DType::f32;
  switch (rounding) {
    case Rounding::exact:
      return {0, 0};
    case Rounding::elementwise:
      return f32 ? Tolerance{4, 1} : Tolerance{2, 0.01};
    case Rounding::rows:
      return f32 ? Tolerance{8, 16} : Tolerance{2, 1};
    case Rounding::products:
      return f32 ? Tolerance{8, 32} : Tolerance{2, 1};
  }
  return {0, 0};
}
double unit_roundoff(DType dtype) {
  return dtype == DType::f64 ? 0x1p-53 : dtype == DType::f32 ? 0x1p-24 : 0x1p-8;
}

Tensors on_device(Tensors all, Device device) {
  for (Tensor& x : all) x = x.to(device);
  return all;
}

double top(const Tensors& all) {
  double largest = 0;
  for (const Tensor& x : all) {
    if (!x.defined()) continue;
    for (double v : x.to_vector()) largest = std::max(largest, std::abs(v));
  }
  return largest;
}

constexpr double kValueTolerance = 1e-12;
constexpr double kGradAtol = 1e-8, kGradRtol = 1e-6;
constexpr int64_t kFullJacobian = 4096;
constexpr int kProjections = 6;

RngKey test_key(uint64_t seed) { return {.seed = seed, .purpose = RngPurpose::test}; }

// What one pass gave: outputs, and a gradient per input (undefined where there is none).
struct Pass {
  Tensors y, dx;
};

struct Checker {
  const OpRow& row;
  const Inputs& inputs;
  std::string where;
  std::vector<std::string>* problems;

  template <class... Parts>
  void problem(const Parts&... parts) const {
    if (problems->size() < 20) problems->push_back(cat(where, ": ", parts...));
  }

  Tensors make_inputs(DType dtype) const {
    Tensors x;
    for (size_t i = 0; i < inputs.size(); ++i) {
      const Tensor made = inputs[i].make(17 + i);
      x.push_back(inputs[i].keep_dtype ? made : made.to(dtype));
    }
    return x;
  }

  Vars leaves(const Tensors& x) const {
    Vars v;
    for (size_t i = 0; i < x.size(); ++i) v.emplace_back(x[i].clone(), inputs[i].differentiable);
    return v;
  }

  Tensors forward(const Tensors& x) const {
    const NoGrad no_grad;
    Tensors y;
    for (const Var& v : row.f(leaves(x))) y.push_back(v.value());
    return y;
  }

  // Runs backward from `seeds`, one per output, and collects the leaves' gradients.
  static void run_backward(const Vars& y, const Tensors& seeds) {
    Vars roots;
    Tensors used;
    for (size_t o = 0; o < y.size(); ++o) {
      if (!y[o].requires_grad()) continue;
      roots.push_back(y[o]);
      used.push_back(seeds[o].to(y[o].dtype()).to(y[o].value().device()));
    }
    if (!roots.empty()) backward(roots, used);
  }

  Pass pass(const Tensors& x, const Tensors& seeds) const {
    const Vars v = leaves(x);
    const Vars y = row.f(v);
    Pass result;
    for (const Var& o : y) result.y.push_back(o.value().clone());
    run_backward(y, seeds);
    for (const Var& leaf : v) result.dx.push_back(leaf.grad().clone());
    return result;
  }

  static Tensors random_seeds(const Tensors& y, uint64_t seed) {
    Tensors seeds;
    for (size_t o = 0; o < y.size(); ++o) {
      seeds.push_back(make(y[o].shape(), [&](int64_t i) {
        return random_normal(test_key(seed + 1000 + o), static_cast<uint64_t>(i));
      }));
    }
    return seeds;
  }

  void check_value() const;
  void check_jacobian() const;
  void check_projections() const;
  void check_alone() const;
  void check_narrow(DType dtype) const;
  void check_bits(DType dtype) const;
  void check_places(DType dtype, Device device) const;
  void check_cuda(DType dtype) const;
  void compare(const char* what, size_t index, const Tensor& got, const Tensor& want, DType dtype,
               Tolerance allowed) const;
  void all() const;
};

bool bit_equal(const Tensor& here, const Tensor& there) {
  if (here.defined() != there.defined()) return false;
  if (!here.defined()) return true;
  const Tensor a = here.to(kCpu), b = there.to(kCpu);
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         (a.bytes() == 0 || std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0);
}

void Checker::check_value() const {
  const Tensors x = make_inputs(DType::f64);
  const Tensors y = forward(x), want = row.expect(x);
  if (y.size() != want.size()) {
    return problem(y.size(), " outputs, expected ", want.size());
  }
  for (size_t o = 0; o < y.size(); ++o) {
    if (y[o].shape() != want[o].shape()) {
      problem("output ", o, " has shape ", to_string(y[o].shape()), ", expected ",
              to_string(want[o].shape()));
      continue;
    }
    const std::vector<double> a = y[o].to_vector(), b = want[o].to_vector();
    for (size_t i = 0; i < a.size(); ++i) {
      if (std::abs(a[i] - b[i]) <= kValueTolerance * (1 + std::abs(b[i]))) continue;
      problem("value of output ", o, " at ", i, " is ", a[i], ", expected ", b[i]);
      break;
    }
  }
}

// (f(x + h e_j) - f(x - h e_j)) / 2h of every output, all in one row.
std::vector<double> difference(const Checker& c, const Tensors& x, size_t input, int64_t j) {
  Tensors moved = x;
  moved[input] = x[input].clone();
  double* value = moved[input].data<double>() + j;
  const double before = *value, h = 1e-5 * std::max(1.0, std::abs(before));
  *value = before + h;
  const double up = *value;
  const Tensors plus = c.forward(moved);
  *value = before - h;
  const double down = *value;
  const Tensors minus = c.forward(moved);
  std::vector<double> slope;
  for (size_t o = 0; o < plus.size(); ++o) {
    if (!is_floating(plus[o].dtype())) continue;
    const std::vector<double> a = plus[o].to_vector(), b = minus[o].to_vector();
    for (size_t i = 0; i < a.size(); ++i) slope.push_back((a[i] - b[i]) / (up - down));
  }
  return slope;
}

// Every entry: one backward per output element against one difference per input element.
void Checker::check_jacobian() const {
  const Tensors x = make_inputs(DType::f64);
  const Tensors y = forward(x);
  std::vector<std::vector<double>> analytic(x.size());  // [input][output element * size + j]
  for (size_t o = 0; o < y.size(); ++o) {
    if (!is_floating(y[o].dtype())) continue;
    for (int64_t e = 0; e < y[o].numel(); ++e) {
      Tensors seeds;
      for (const Tensor& other : y) seeds.push_back(Tensor::zeros(other.shape(), DType::f64));
      seeds[o].data<double>()[e] = 1;
      const Pass p = pass(x, seeds);
      for (size_t i = 0; i < x.size(); ++i) {
        const Tensor dx = p.dx[i].defined() ? p.dx[i] : Tensor::zeros(x[i].shape(), DType::f64);
        const std::vector<double> row_values = dx.to_vector();
        analytic[i].insert(analytic[i].end(), row_values.begin(), row_values.end());
      }
    }
  }
  for (size_t i = 0; i < x.size(); ++i) {
    if (!inputs[i].differentiable) continue;
    const auto size = static_cast<size_t>(x[i].numel());
    for (size_t j = 0; j < size; ++j) {
      const std::vector<double> slope = difference(*this, x, i, static_cast<int64_t>(j));
      for (size_t e = 0; e < slope.size(); ++e) {
        const double got = analytic[i][e * size + j];
        if (std::abs(got - slope[e]) <= kGradAtol + kGradRtol * std::abs(slope[e])) continue;
        return problem("gradient of output element ", e, " for input ", i, " element ", j, " is ",
                       got, ", central difference says ", slope[e]);
      }
    }
  }
}

// <dy, J u> from one difference along a random u against <J^T dy, u> from backward.
void Checker::check_projections() const {
  const Tensors x = make_inputs(DType::f64);
  const Tensors seeds = random_seeds(forward(x), 7);
  const Pass p = pass(x, seeds);
  for (size_t i = 0; i < x.size(); ++i) {
    if (!inputs[i].differentiable || x[i].numel() == 0) continue;
    for (int k = 0; k < kProjections; ++k) {
      const double h = 1e-5;
      double got = 0;
      Tensors plus = x, minus = x;
      plus[i] = x[i].clone();
      minus[i] = x[i].clone();
      const std::vector<double> dx =
          p.dx[i].defined() ? p.dx[i].to_vector() : std::vector<double>();
      for (int64_t j = 0; j < x[i].numel(); ++j) {
        const double u =
            random_normal(test_key(static_cast<uint64_t>(k) + 99), static_cast<uint64_t>(j));
        plus[i].data<double>()[j] += h * u;
        minus[i].data<double>()[j] -= h * u;
        if (!dx.empty()) got += dx[static_cast<size_t>(j)] * u;
      }
      const Tensors a = forward(plus), b = forward(minus);
      double want = 0, size = 0;
      for (size_t o = 0; o < a.size(); ++o) {
        if (!is_floating(a[o].dtype())) continue;
        const std::vector<double> va = a[o].to_vector(), vb = b[o].to_vector();
        const double* dy = seeds[o].data<double>();
        for (size_t e = 0; e < va.size(); ++e) {
          want += dy[e] * (va[e] - vb[e]) / (2 * h);
          size += std::abs(dy[e] * (va[e] - vb[e]) / (2 * h));
        }
      }
      if (std::abs(got - want) <= kGradAtol + kGradRtol * std::max(std::abs(want), 0.01 * size)) {
        continue;
      }
      return problem("gradient for input ", i, " along a random direction is ", got,
                     ", central difference says ", want);
    }
  }
}

// The gradient of an input is the same when it is the only one wanted.
void Checker::check_alone() const {
  const Tensors x = make_inputs(DType::f64);
  const Tensors seeds = random_seeds(forward(x), 3);
  const Pass all = pass(x, seeds);
  for (size_t i = 0; i < x.size(); ++i) {
    if (!inputs[i].differentiable) continue;
    Inputs frozen = inputs;
    for (size_t j = 0; j < x.size(); ++j) frozen[j].differentiable = i == j;
    const Pass alone = Checker{row, frozen, where, problems}.pass(x, seeds);
    if (!bit_equal(alone.dx[i], all.dx[i])) {
      problem("gradient ", i, alone.dx[i].defined() ? " differs" : " is missing",
              " where no other input needs one");
    }
  }
}

void Checker::compare(const char* what, size_t index, const Tensor& got, const Tensor& want,
                      DType dtype, Tolerance allowed) const {
  if (!got.defined() || !want.defined()) {
    if (got.defined() != want.defined()) problem(what, " ", index, " is there in one dtype only");
    return;
  }
  const std::vector<double> a = got.to_vector(), b = want.to_vector();
  const double largest = top({want});
  for (size_t i = 0; i < a.size(); ++i) {
    const double bound = row.loosen * unit_roundoff(dtype) *
                         (allowed.rel * std::abs(b[i]) + allowed.scale * largest);
    if (std::abs(a[i] - b[i]) <= bound) continue;
    return problem(to_string(dtype), " ", what, " ", index, " at ", i, " is ", a[i], ", f64 says ",
                   b[i], ", off by ",
                   std::abs(a[i] - b[i]) / unit_roundoff(dtype) / std::max(largest, 1e-300),
                   " u of the largest");
  }
}

// f32 or bf16 against f64 on the same (already rounded) inputs.
void Checker::check_narrow(DType dtype) const {
  const Tensors x = make_inputs(dtype);
  Tensors wide, seeds;
  for (size_t i = 0; i < x.size(); ++i) {
    wide.push_back(inputs[i].keep_dtype ? x[i] : x[i].to(DType::f64));
  }
  for (const Tensor& s : random_seeds(forward(x), 5)) {
    seeds.push_back(s.to(dtype).to(DType::f64));
  }
  const Pass narrow = pass(x, seeds), truth = pass(wide, seeds);
  const Tolerance allowed = tolerance(row.rounding, dtype);
  for (size_t o = 0; o < narrow.y.size(); ++o) {
    compare("output", o, narrow.y[o], truth.y[o], dtype, allowed);
  }
  for (size_t i = 0; i < narrow.dx.size(); ++i) {
    compare("gradient", i, narrow.dx[i], truth.dx[i], dtype, allowed);
  }
}

// The same run again, and with other numbers of threads.
void Checker::check_bits(DType dtype) const {
  const Tensors x = make_inputs(dtype);
  const Tensors seeds = random_seeds(forward(x), 3);
  const Pass first = pass(x, seeds);
  const int before = num_threads();
  for (int threads : {before, 1, 2, 3}) {
    set_num_threads(threads);
    const Pass again = pass(x, seeds);
    for (size_t o = 0; o < first.y.size(); ++o) {
      if (bit_equal(first.y[o], again.y[o])) continue;
      problem(to_string(dtype), " output ", o, " changes from run to run (", threads, " threads)");
    }
    for (size_t i = 0; i < first.dx.size(); ++i) {
      if (bit_equal(first.dx[i], again.dx[i])) continue;
      problem(to_string(dtype), " gradient ", i, " changes from run to run (", threads,
              " threads)");
    }
  }
  set_num_threads(before);
}

// A leaf's gradient in a buffer of its own (f32 for bf16): the first backward overwrites what is
// there, the second adds the same again, and a reset starts over.
void Checker::check_places(DType dtype, Device device) const {
  const Tensors x = on_device(make_inputs(dtype), device);
  const Tensors seeds = random_seeds(forward(x), 3);
  const Pass plain = pass(x, seeds);
  const Vars v = leaves(x);
  const DType kept = dtype == DType::f64 ? DType::f64 : DType::f32;
  Tensors buffers(x.size()), once(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    if (!inputs[i].differentiable || !plain.dx[i].defined()) continue;
    buffers[i] = Tensor::full(x[i].shape(), kept, NAN, device);
    v[i].place_grad(buffers[i]);
  }
  const auto step = [&](const char* what, const std::function<bool(double, double)>& right) {
    run_backward(row.f(v), seeds);
    for (size_t i = 0; i < x.size(); ++i) {
      if (!buffers[i].defined()) continue;
      if (!v[i].grad().same_memory(buffers[i])) problem("gradient ", i, " has left its place");
      if (!once[i].defined()) once[i] = buffers[i].clone();
      const std::vector<double> a = buffers[i].to_vector(), b = once[i].to_vector();
      for (size_t j = 0; j < a.size(); ++j) {
        if (right(a[j], b[j])) continue;
        problem(to_string(dtype), " placed gradient ", i, " at ", j, " is ", a[j], " ", what,
                ", once it was ", b[j]);
        break;
      }
    }
  };
  step("after one backward", [](double a, double) { return !std::isnan(a); });
  for (size_t i = 0; i < x.size(); ++i) {
    if (buffers[i].defined() && dtype == kept && !bit_equal(once[i], plain.dx[i])) {
      problem(to_string(dtype), " gradient ", i, " differs when it has a place");
    }
    if (buffers[i].defined() && dtype != kept) {
      compare("placed gradient", i, once[i], plain.dx[i], dtype, {2, 1});
    }
  }
  // A product starts its sums at what is there, so twice is not twice to the last bit.
  const bool exact = row.rounding != Rounding::products;
  step("after two", [&](double a, double b) {
    return exact ? a == 2 * b : std::abs(a - 2 * b) <= 64 * unit_roundoff(kept) * top(once);
  });
  for (const Var& leaf : v) leaf.reset_grad();
  step("after a reset", [](double a, double b) { return a == b; });
}

// The CUDA kernels against the CPU in f64 on the same inputs, with the tolerances that the CPU's
// own f32 and bf16 keep; then the same bits again, and gradients in their places.
void Checker::check_cuda(DType dtype) const {
  const Device gpu{DeviceType::cuda, 0};
  const Tensors x = make_inputs(dtype);
  Tensors wide, seeds;
  for (size_t i = 0; i < x.size(); ++i) {
    wide.push_back(inputs[i].keep_dtype ? x[i] : x[i].to(DType::f64));
  }
  for (const Tensor& s : random_seeds(forward(x), 5)) {
    seeds.push_back(s.to(dtype).to(DType::f64));
  }
  const Tensors there = on_device(x, gpu);
  const Pass truth = pass(wide, seeds), cuda = pass(there, seeds), again = pass(there, seeds);
  const Tolerance allowed = tolerance(row.rounding, dtype);
  for (size_t o = 0; o < cuda.y.size(); ++o) {
    compare("output", o, cuda.y[o], truth.y[o], dtype, allowed);
    if (!bit_equal(cuda.y[o], again.y[o])) problem("output ", o, " changes from run to run");
  }
  for (size_t i = 0; i < cuda.dx.size(); ++i) {
    compare("gradient", i, cuda.dx[i], truth.dx[i], dtype, allowed);
    if (!bit_equal(cuda.dx[i], again.dx[i])) problem("gradient ", i, " changes from run to run");
  }
  check_places(dtype, gpu);
}

void Checker::all() const {
  check_value();
  int64_t in = 0, out = 0;
  const Tensors x = make_inputs(DType::f64);
  for (size_t i = 0; i < x.size(); ++i) in += inputs[i].differentiable ? x[i].numel() : 0;
  for (const Tensor& y : forward(x)) out += y.numel();
  if (in * out <= kFullJacobian) check_jacobian();
  check_projections();
  check_alone();
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    if (dtype != DType::f64 && !row.narrow) continue;
    if (dtype != DType::f64) check_narrow(dtype);
    check_bits(dtype);
    check_places(dtype, kCpu);
  }
}

std::vector<std::string> check_cases(const OpRow& row,
                                     const std::function<void(const Checker&)>& check) {
  std::vector<std::string> problems;
  std::vector<Inputs> cases = {row.inputs};
  cases.insert(cases.end(), row.also.begin(), row.also.end());
  for (const Inputs& inputs : cases) {
    std::string where = "inputs";
    for (const Input& input : inputs) where += " " + to_string(input.make(0).shape());
    check(Checker{row, inputs, where, &problems});
  }
  return problems;
}

}  // namespace

std::vector<std::string> check_op(const OpRow& row) {
  std::vector<std::string> problems = check_cases(row, [](const Checker& c) { c.all(); });
  if ((row.loosen != 1 || !row.narrow) && row.why.empty()) {
    problems.push_back("the row loosens a tolerance without saying why");
  }
  return problems;
}

std::vector<std::string> check_op_on_cuda(const OpRow& row) {
  return check_cases(row, [&](const Checker& c) {
    for (DType dtype : {DType::f32, DType::bf16}) {
      if (row.narrow) c.check_cuda(dtype);
    }
  });
}

}  // namespace pyramoe::optest
