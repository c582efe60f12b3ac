#include "nn/linear.h"

#include "autograd/ops.h"

namespace pyramoe::nn {

Linear::Linear(Shape out, int64_t in, bool bias, double std, const Build& build) {
  Shape shape = out;
  shape.push_back(in);
  weight_ = add_parameter("weight", std::move(shape), build, Init::normal(std));
  if (bias && build.bias)
    bias_ = add_parameter("bias", std::move(out), build, Init::zeros(), false);
}

Var Linear::forward(const Var& x) const { return ops::linear(x, weight_, bias_); }

}  // namespace pyramoe::nn
