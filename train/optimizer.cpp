#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "core/kernels/adam.h"

namespace pyramoe::train {
namespace {

// This rank's share of a flat group: all of it, or with ZeRO its own range.
class Share {
 public:
  Share(FlatGroup& group, int64_t zero) : group_(group), range_{0, group.param.numel()} {
    cut_ = zero > 0 && group.sync.size() > 1;
    if (cut_) range_ = dist::own_range(group.param.numel(), group.sync.rank(), group.sync.size());
  }
  FlatGroup& group() const { return group_; }
  // The gradient as it lies, in the share's elements.
  std::vector<GradPiece> grads() const {
    if (!cut_) return group_.grads();
    return {{0, range_.end - range_.begin, group_.grad.rows(range_.begin, range_.end)}};
  }
  Tensor zeros() const {
    return Tensor::zeros({range_.end - range_.begin}, group_.grad_dtype, group_.param.device());
  }
  Tensor param() const { return group_.param.rows(range_.begin, range_.end); }
  // Master weights: the weights themselves, or a wider copy of bf16 ones.
  Tensor master() const {
    return group_.param.dtype() == DType::bf16 ? param().to(DType::f32).clone() : param();
  }
  // Stretches of this share whose elements are neighbours in the buffers of one rank too.
  struct Run {
    int64_t begin, end;  // in the share
    int64_t first_id;    // in the buffers of one rank
  };
  std::vector<Run> runs() const {
    std::vector<Run> runs;
    for (const FlatSlot& slot : group_.slots) {
      const nn::Parameter& p = *slot.parameter;
      nn::for_each_run(p.place.box, p.var.shape(), [&](int64_t local, int64_t global, int64_t n) {
        const int64_t at = slot.begin + local, id = slot.first_id + global;
        const int64_t begin = std::max(at, range_.begin), end = std::min(at + n, range_.end);
        if (begin >= end) return;
        const Run run{begin - range_.begin, end - range_.begin, id + begin - at};
        if (!runs.empty() && runs.back().first_id - runs.back().begin == run.first_id - run.begin) {
          runs.back().end = run.end;  // zeros between two parameters stay zero
        } else {
          runs.push_back(run);
        }
      });
    }
    return runs;
  }
  // After the update: everybody's ranges.
  void gather() const {
    if (!cut_) return;
    Tensor all = group_.param;
    group_.sync.all_gather(param(), all);
  }
  // Adds the tensors of a state whose share is `own`, under prefix + name.
  void add_state(std::vector<nn::NamedTensor>& all, const char* prefix, const Tensor& own) const {
    if (!own.defined()) return;
    Tensor flat = own;
    if (cut_) {
      flat = Tensor({group_.param.numel()}, own.dtype(), own.device());
      group_.sync.all_gather(own, flat);
    }
    for (const FlatSlot& slot : group_.slots) {
      all.push_back(
          {prefix + slot.parameter->name, group_.view(flat, slot), slot.parameter->place.box});
    }
  }
  // The way back; `next` walks the state in the order of add_state.
  void put_state(const std::vector<nn::NamedTensor>& all, size_t& next, const Tensor& own) const {
    if (!own.defined()) return;
    Tensor flat = Tensor::zeros({group_.param.numel()}, own.dtype(), own.device());
    for (const FlatSlot& slot : group_.slots) {
      group_.view(flat, slot).copy_from(all.at(next++).value);
    }
    own.copy_from(flat.rows(range_.begin, range_.end));
  }

 private:
  FlatGroup& group_;
  dist::Range range_;
  bool cut_ = false;
};

std::vector<Share> shares_of(FlatBuffers& buffers, int64_t zero) {
  std::vector<Share> shares;
  for (FlatGroup& group : buffers.groups()) shares.emplace_back(group, zero);
  return shares;
}

// No master weights: bf16 weights and moments are all there is.
bool is_narrow(const FlatGroup& group) { return group.grad_dtype == DType::bf16; }

class AdamW : public Optimizer {
 public:
  AdamW(FlatBuffers& buffers, const TrainConfig& config, int64_t zero)
      : shares_(shares_of(buffers, zero)), config_(config) {
    for (const Share& share : shares_) {
      master_.push_back(is_narrow(share.group()) ? share.param() : share.master());
      m_.push_back(share.zeros());
      v_.push_back(share.zeros());
      runs_.push_back(is_narrow(share.group()) ? share.runs() : std::vector<Share::Run>{});
    }
  }

  void prepare(StepScalars& scalars) const override {
    const auto t = static_cast<double>(updates_ + 1);
    scalars.set(StepScalars::bias1, 1 - std::pow(config_.beta1, t));
    scalars.set(StepScalars::bias2, 1 - std::pow(config_.beta2, t));
  }

  void step(const Tensor& scalars) override {
    for (size_t i = 0; i < m_.size(); ++i) {
      const FlatGroup& group = shares_[i].group();
      const kernels::AdamWOptions options{config_.beta1, config_.beta2, config_.eps,
                                          group.weight_decay ? config_.weight_decay : 0};
      const Tensor param = shares_[i].param();
      for (const GradPiece& piece : shares_[i].grads()) {
        if (is_narrow(group)) {
          step_rounded(i, piece, options, scalars);
          continue;
        }
        const auto part = [&piece](const Tensor& x) { return x.rows(piece.begin, piece.end); };
        Tensor p = part(param), master = part(master_[i]), m = part(m_[i]), v = part(v_[i]);
        kernels::adamw_step(piece.grad, options, scalars, master, m, v, p);
      }
      shares_[i].gather();
    }
  }

  std::vector<nn::NamedTensor> state() override {
    std::vector<nn::NamedTensor> all;
    for (size_t i = 0; i < m_.size(); ++i) {
      shares_[i].add_state(all, "m.", m_[i]);
      shares_[i].add_state(all, "v.", v_[i]);
      if (has_master(i)) shares_[i].add_state(all, "master.", master_[i]);
    }
    return all;
  }

  void put_state(const std::vector<nn::NamedTensor>& state) override {
    size_t next = 0;
    for (size_t i = 0; i < m_.size(); ++i) {
      shares_[i].put_state(state, next, m_[i]);
      shares_[i].put_state(state, next, v_[i]);
      if (has_master(i)) shares_[i].put_state(state, next, master_[i]);
    }
  }

 private:
  bool has_master(size_t i) const { return !master_[i].same_memory(shares_[i].param()); }
  // Share i where a piece of its gradient and a run of numbered elements meet.
  void step_rounded(size_t i, const GradPiece& piece, const kernels::AdamWOptions& options,
                    const Tensor& scalars) {
    const RngKey key{static_cast<uint64_t>(config_.seed), RngPurpose::weight_rounding, 0, 0};
    for (const Share::Run& run : runs_[i]) {
      const int64_t begin = std::max(run.begin, piece.begin), end = std::min(run.end, piece.end);
      if (begin >= end) continue;
      const auto part = [&](const Tensor& x) { return x.rows(begin, end); };
      Tensor p = part(shares_[i].param()), m = part(m_[i]), v = part(v_[i]);
      kernels::adamw_step_rounded(piece.grad.rows(begin - piece.begin, end - piece.begin), options,
                                  scalars, key, run.first_id + begin - run.begin, p, m, v);
    }
  }

  std::vector<Share> shares_;
  // Where moments are bf16: random rounding goes by an element's place in the whole model.
  std::vector<std::vector<Share::Run>> runs_;
  TrainConfig config_;
  Tensors master_, m_, v_;
};

class Sgd : public Optimizer {
 public:
  Sgd(FlatBuffers& buffers, const TrainConfig& config, int64_t zero)
      : shares_(shares_of(buffers, zero)), config_(config) {
    for (const Share& share : shares_) {
      master_.push_back(share.master());
      m_.push_back(config.momentum > 0 ? share.zeros() : Tensor());
    }
  }

  void step(const Tensor& scalars) override {
    for (size_t i = 0; i < m_.size(); ++i) {
      const double decay = shares_[i].group().weight_decay ? config_.weight_decay : 0;
      for (const GradPiece& piece : shares_[i].grads()) {
        const auto part = [&piece](const Tensor& x) {
          return x.defined() ? x.rows(piece.begin, piece.end) : x;
        };
        Tensor p = part(shares_[i].param()), master = part(master_[i]), m = part(m_[i]);
        kernels::sgd_step(piece.grad, config_.momentum, decay, scalars, master, m, p);
      }
      shares_[i].gather();
    }
  }

  std::vector<nn::NamedTensor> state() override {
    std::vector<nn::NamedTensor> all;
    for (size_t i = 0; i < m_.size(); ++i) {
      shares_[i].add_state(all, "m.", m_[i]);
      if (has_master(i)) shares_[i].add_state(all, "master.", master_[i]);
    }
    return all;
  }

  void put_state(const std::vector<nn::NamedTensor>& state) override {
    size_t next = 0;
    for (size_t i = 0; i < m_.size(); ++i) {
      shares_[i].put_state(state, next, m_[i]);
      if (has_master(i)) shares_[i].put_state(state, next, master_[i]);
    }
  }

 private:
  bool has_master(size_t i) const { return !master_[i].same_memory(shares_[i].param()); }

  std::vector<Share> shares_;
  TrainConfig config_;
  Tensors master_, m_;
};

}  // namespace

std::unique_ptr<Optimizer> make_optimizer(FlatBuffers& buffers, const TrainConfig& config,
                                          int64_t zero) {
  if (config.optimizer == "sgd") return std::make_unique<Sgd>(buffers, config, zero);
  return std::make_unique<AdamW>(buffers, config, zero);
}

}  // namespace pyramoe::train
