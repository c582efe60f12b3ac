#include "train/optimizer.h"

#include <cmath>

#include "core/kernels/adam.h"

namespace pyramoe::train {
namespace {

// Master weights of a group: the weights themselves, or a wider copy of bf16 ones.
Tensor make_master(const FlatGroup& group) {
  return group.param.dtype() == DType::bf16 ? group.param.to(DType::f32) : group.param;
}

void add_state(std::vector<nn::NamedTensor>& all, const FlatGroup& group, const char* prefix,
               const Tensor& flat) {
  if (!flat.defined()) return;
  for (const FlatSlot& slot : group.slots) {
    all.push_back({prefix + slot.parameter->name, group.view(flat, slot)});
  }
}

// No master weights: bf16 weights and moments are all there is.
bool is_narrow(const FlatGroup& group) { return group.grad.dtype() == DType::bf16; }

class AdamW : public Optimizer {
 public:
  AdamW(FlatBuffers& buffers, const TrainConfig& config) : buffers_(buffers), config_(config) {
    for (const FlatGroup& group : buffers.groups()) {
      master_.push_back(is_narrow(group) ? group.param : make_master(group));
      m_.push_back(zeros_like(group.grad));
      v_.push_back(zeros_like(group.grad));
    }
  }

  void prepare(StepScalars& scalars) const override {
    const auto t = static_cast<double>(updates_ + 1);
    scalars.set(StepScalars::bias1, 1 - std::pow(config_.beta1, t));
    scalars.set(StepScalars::bias2, 1 - std::pow(config_.beta2, t));
  }

  void step(const Tensor& scalars) override {
    const RngKey key{static_cast<uint64_t>(config_.seed), RngPurpose::weight_rounding, 0, 0};
    int64_t first = 0;  // of this group's elements, among those of all groups
    for (size_t i = 0; i < m_.size(); ++i) {
      FlatGroup& group = buffers_.groups()[i];
      const kernels::AdamWOptions options{config_.beta1, config_.beta2, config_.eps,
                                          group.weight_decay ? config_.weight_decay : 0};
      if (is_narrow(group)) {
        kernels::adamw_step_rounded(group.grad, options, scalars, key, first, group.param, m_[i],
                                    v_[i]);
      } else {
        kernels::adamw_step(group.grad, options, scalars, master_[i], m_[i], v_[i], group.param);
      }
      first += group.param.numel();
    }
  }

  std::vector<nn::NamedTensor> state() override {
    std::vector<nn::NamedTensor> all;
    for (size_t i = 0; i < m_.size(); ++i) {
      const FlatGroup& group = buffers_.groups()[i];
      add_state(all, group, "m.", m_[i]);
      add_state(all, group, "v.", v_[i]);
      if (!master_[i].same_memory(group.param)) add_state(all, group, "master.", master_[i]);
    }
    return all;
  }

 private:
  FlatBuffers& buffers_;
  TrainConfig config_;
  Tensors master_, m_, v_;
};

class Sgd : public Optimizer {
 public:
  Sgd(FlatBuffers& buffers, const TrainConfig& config) : buffers_(buffers), config_(config) {
    for (const FlatGroup& group : buffers.groups()) {
      master_.push_back(make_master(group));
      m_.push_back(config.momentum > 0 ? zeros_like(group.grad) : Tensor());
    }
  }

  void step(const Tensor& scalars) override {
    for (size_t i = 0; i < m_.size(); ++i) {
      FlatGroup& group = buffers_.groups()[i];
      kernels::sgd_step(group.grad, config_.momentum, group.weight_decay ? config_.weight_decay : 0,
                        scalars, master_[i], m_[i], group.param);
    }
  }

  std::vector<nn::NamedTensor> state() override {
    std::vector<nn::NamedTensor> all;
    for (size_t i = 0; i < m_.size(); ++i) {
      const FlatGroup& group = buffers_.groups()[i];
      add_state(all, group, "m.", m_[i]);
      if (!master_[i].same_memory(group.param)) add_state(all, group, "master.", master_[i]);
    }
    return all;
  }

 private:
  FlatBuffers& buffers_;
  TrainConfig config_;
  Tensors master_, m_;
};

}  // namespace

std::unique_ptr<Optimizer> make_optimizer(FlatBuffers& buffers, const TrainConfig& config) {
  if (config.optimizer == "sgd") return std::make_unique<Sgd>(buffers, config);
  return std::make_unique<AdamW>(buffers, config);
}

}  // namespace pyramoe::train
