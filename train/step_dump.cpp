#include "train/step_dump.h"

#include "core/file.h"
#include "core/safetensors.h"

namespace pyramoe::train {

void StepDump::add_logits(const Tensor& logits) { logits_.push_back(logits.to(kCpu).clone()); }

void StepDump::add_gradients(const FlatBuffers& buffers) {
  for (const FlatGroup& group : buffers.groups()) {
    for (const FlatSlot& slot : group.slots) {
      items_.emplace_back("grad." + slot.parameter->name,
                          group.view(group.grad, slot).to(kCpu).clone());
    }
  }
}

void StepDump::write(const StepResult& result, nn::Gpt& model, const std::string& folder) {
  const auto add_scalar = [&](const char* name, double value) {
    items_.emplace_back(name, Tensor::scalar(value, DType::f64));
  };
  add_scalar("loss", result.loss);
  add_scalar("balance_loss", result.balance_loss);
  add_scalar("distill_loss", result.distill_loss);
  add_scalar("grad_norm", result.grad_norm);
  int64_t rows = 0;
  for (const Tensor& part : logits_) rows += part.dim(0);
  Tensor logits({rows, logits_.at(0).dim(1)}, logits_[0].dtype());
  rows = 0;
  for (const Tensor& part : logits_) {
    logits.rows(rows, rows + part.dim(0)).copy_from(part);
    rows += part.dim(0);
  }
  items_.emplace_back("logits", logits);
  for (const nn::Parameter* p : model.parameters(true)) {
    items_.emplace_back("param." + p->name, p->var.value());
  }
  make_folders(folder);
  write_safetensors(folder + "/step.safetensors", items_);
  items_.clear();
  logits_.clear();
}

}  // namespace pyramoe::train
