#include "nn/tensor_linear.h"

#include "autograd/ops.h"
#include "dist/collective_ops.h"

namespace pyramoe::nn {

TensorLinear::TensorLinear(Shape out, int64_t in, bool bias, double std, const Build& build,
                           TensorCut cut)
    : tensor_(build.tensor()), cut_(cut) {
  const int64_t parts = tensor_.size();
  const int last = static_cast<int>(out.size()) - 1;
  Shape whole = out;
  whole.push_back(in);
  Shape shape = whole;
  Placement weight_place = build.everywhere(), bias_place = weight_place;
  if (parts > 1 && cut == TensorCut::columns) {
    weight_place = build.over_tensor(whole, last);
    bias_place = build.over_tensor(out, last);
    shape[static_cast<size_t>(last)] /= parts;
    out.back() /= parts;
  } else if (parts > 1) {
    weight_place = build.over_tensor(whole, last + 1);
    shape.back() /= parts;
  }
  weight_ = add_parameter("weight", std::move(shape), build, Init::normal(std), true, weight_place);
  if (bias && build.bias) {
    bias_ = add_parameter("bias", std::move(out), build, Init::zeros(), false, bias_place);
  }
}

Var TensorLinear::forward(const Var& x) const {
  if (tensor_.size() == 1) return ops::linear(x, weight_, bias_);
  if (cut_ == TensorCut::columns) {
    return ops::linear(dist::copy_to(x, tensor_), weight_, bias_);
  }
  const Var sum = dist::sum_from(ops::linear(x, weight_, Var()), tensor_);
  return dist::add_bias(sum, bias_);
}

}  // namespace pyramoe::nn
