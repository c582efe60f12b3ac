// Small layers of experts with random weights everywhere, and one call that runs them forward and
// backward. Everything is f64 unless said otherwise.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/rng.h"
#include "moe/build_model.h"
#include "moe/residual_moe.h"

namespace pyramoe::moe {

inline Tensor normal(Shape shape, uint64_t seed, double scale = 1, DType dtype = DType::f64) {
  Tensor x(std::move(shape), DType::f64);
  const RngKey key{seed, RngPurpose::test};
  for (int64_t i = 0; i < x.numel(); ++i) {
    x.data<double>()[i] = scale * random_normal(key, static_cast<uint64_t>(i));
  }
  return x.to(dtype);
}

// One layer of `experts` experts, D = 5, F = 7.
inline ModelConfig small_config() {
  ModelConfig config;
  config.layers = 2;
  config.dim = 5;
  config.expert_hidden = 7;
  config.heads = 1;
  config.context = 64;
  config.vocab = 17;
  config.min_capacity = 1;
  return config;
}

inline std::unique_ptr<nn::FeedForward> make_layer(const ModelConfig& config, int64_t experts,
                                                   DType dtype = DType::f64) {
  const nn::Build build{dtype, kCpu};
  const LayerPlan plan{config.residual ? FfnKind::residual_moe : FfnKind::moe, experts,
                       config.top_k, 1};
  std::unique_ptr<nn::FeedForward> layer;
  if (config.residual) {
    layer = std::make_unique<ResidualMoe>(config, plan, build);
  } else {
    layer = std::make_unique<MoeLayer>(config, plan, build);
  }
  uint64_t seed = 100;
  for (const nn::Parameter* p : layer->parameters()) {
    const Tensor& value = p->var.value();
    value.copy_from(normal(value.shape(), seed++, 0.5).to(value.dtype()));
  }
  return layer;
}

inline const nn::Parameter& parameter(nn::Module& module, const std::string& name) {
  for (const nn::Parameter* p : module.parameters(true)) {
    if (p->name == name) return *p;
  }
  fail(Exit::bug, "no parameter ", name);
}
inline Tensor value(nn::Module& module, const std::string& name) {
  return parameter(module, name).var.value();
}

inline nn::Context context_of(int64_t batch, int64_t length, bool training) {
  nn::Context context;
  context.training = training;
  context.seed = 5;
  context.step = 3;
  context.batch = batch;
  context.length = length;
  context.layer = 1;
  return context;
}

struct Pass {
  Tensor y, balance_loss, z_loss, dx;
  std::map<std::string, Tensor> grads;
  std::vector<nn::LayerStat> stats;
};

// Forward, then backward from dy on y and `aux` on both side losses.
inline Pass run(nn::FeedForward& layer, const Tensor& x, nn::Context context, const Tensor& dy,
                double aux = 0.3) {
  Pass result;
  const Var in(x.clone(), true);
  for (const nn::Parameter* p : layer.parameters()) {
    p->var.place_grad(Tensor::zeros(p->var.shape(), p->var.dtype()));
  }
  const nn::FfnOut out = layer.forward(in, context);
  Vars roots{out.y};
  Tensors seeds{dy};
  result.y = out.y.value();
  for (const auto& [loss, to] :
       {std::pair{&out.balance_loss, &result.balance_loss}, {&out.z_loss, &result.z_loss}}) {
    if (!loss->defined()) continue;
    *to = loss->value();
    roots.push_back(*loss);
    seeds.push_back(Tensor::full({1}, loss->dtype(), aux));
  }
  backward(roots, seeds);
  result.dx = in.grad();
  for (const nn::Parameter* p : layer.parameters()) result.grads[p->name] = p->var.grad();
  result.stats = context.stats;
  return result;
}

// |a - b| <= tolerance * (1 + |b|) everywhere.
inline ::testing::AssertionResult near(const Tensor& a, const Tensor& b, double tolerance) {
  if (a.shape() != b.shape()) {
    return ::testing::AssertionFailure()
           << "shapes " << to_string(a.shape()) << " and " << to_string(b.shape());
  }
  const std::vector<double> x = a.to_vector(), y = b.to_vector();
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::abs(x[i] - y[i]) <= tolerance * (1 + std::abs(y[i]))) continue;
    return ::testing::AssertionFailure() << "at " << i << ": " << x[i] << ", expected " << y[i];
  }
  return ::testing::AssertionSuccess();
}
inline ::testing::AssertionResult equal(const Tensor& a, const Tensor& b) { return near(a, b, 0); }

// Outputs, losses and every gradient agree.
inline void expect_near(const Pass& a, const Pass& b, double tolerance) {
  EXPECT_TRUE(near(a.y, b.y, tolerance)) << "y";
  EXPECT_TRUE(near(a.dx, b.dx, tolerance)) << "dx";
  if (a.balance_loss.defined()) {
    EXPECT_TRUE(near(a.balance_loss, b.balance_loss, tolerance));
  }
  for (const auto& [name, grad] : a.grads) {
    EXPECT_TRUE(near(grad, b.grads.at(name), tolerance)) << name;
  }
}

}  // namespace pyramoe::moe
