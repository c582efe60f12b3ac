#include "train/step_dump.h"

#include "core/file.h"
#include "core/safetensors.h"
#include "dist/collective_ops.h"
#include "nn/gather.h"
#include "train/layout.h"

namespace pyramoe::train {

void StepDump::add_logits(const Tensor& logits, const dist::Mesh* mesh) {
  const NoGrad no_grad;
  Var all(logits.to(kCpu).clone());  // rows of this data rank, columns of this tensor rank
  if (mesh) {
    all = dist::gather_from(all, mesh->tensor(), 1);
    all = dist::gather_from(all, mesh->data(), 0);
  }
  logits_.push_back(all.value());
}

void StepDump::add_gradients(FlatBuffers& buffers, const dist::ProcessGroup& world) {
  buffers.gather_grads();
  std::vector<nn::NamedTensor> parts;
  for (const FlatGroup& group : buffers.groups()) {
    for (const FlatSlot& slot : group.slots) {
      parts.push_back({"grad." + slot.parameter->name,
                       group.view(group.grad, slot).to(kCpu).clone(), slot.parameter->place.box});
    }
  }
  for (const nn::NamedTensor& whole : nn::gather_whole(parts, world)) {
    items_.emplace_back(whole.name, whole.value);
  }
}

// Of each pass the rows of rank 0, 1, …; in the order of the batch.
Tensor StepDump::whole_logits(int64_t blocks) const {
  const int64_t rows = logits_.at(0).dim(0) / blocks;
  const auto passes = static_cast<int64_t>(logits_.size());
  Tensor logits({passes * blocks * rows, logits_[0].dim(1)}, logits_[0].dtype());
  for (int64_t pass = 0; pass < passes; ++pass) {
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t to = (block * passes + pass) * rows;
      logits.rows(to, to + rows)
          .copy_from(logits_[static_cast<size_t>(pass)].rows(block * rows, (block + 1) * rows));
    }
  }
  return logits;
}

void StepDump::write(const StepResult& result, nn::Gpt& model, const std::string& folder,
                     const dist::ProcessGroup& world, int64_t blocks) {
  const std::vector<nn::NamedTensor> parameters = nn::gather_whole(nn::parts_of(model), world);
  const auto add_scalar = [&](const char* name, double value) {
    items_.emplace_back(name, Tensor::scalar(value, DType::f64));
  };
  add_scalar("loss", result.loss);
  add_scalar("balance_loss", result.balance_loss);
  add_scalar("distill_loss", result.distill_loss);
  add_scalar("grad_norm", result.grad_norm);
  items_.emplace_back("logits", whole_logits(blocks));
  for (const nn::NamedTensor& p : parameters) items_.emplace_back("param." + p.name, p.value);
  on_rank_0(world, [&] {
    make_folders(folder);
    write_safetensors(folder + "/step.safetensors", items_);
  });
  items_.clear();
  logits_.clear();
}

}  // namespace pyramoe::train
