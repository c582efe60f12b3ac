#include "moe/upcycle.h"

#include <map>
#include <string>

#include "core/kernels/elementwise.h"

namespace pyramoe::moe {
namespace {

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// "blocks.3.ffn.moe.experts.up.weight" -> stem "blocks.3.ffn.", tail "experts.up.weight".
struct FfnName {
  std::string stem, tail;
  bool residual = false;
};
bool split_ffn(const std::string& name, FfnName& out) {
  const size_t at = name.find(".ffn.");
  if (at == std::string::npos) return false;
  out.stem = name.substr(0, at + 5);
  out.tail = name.substr(at + 5);
  out.residual = out.tail.rfind("moe.", 0) == 0;
  if (out.residual) out.tail = out.tail.substr(4);
  return true;
}

class Upcycle {
 public:
  Upcycle(nn::Gpt& dense, nn::Gpt& moe) {
    for (const nn::Parameter* p : dense.parameters(true)) from_[p->name] = p->var.value();
    for (const nn::Parameter* p : moe.parameters(true)) into_[p->name] = p->var.value();
  }

  void run() {
    for (const auto& [name, value] : into_) fill(name, value);
    for (const auto& [name, value] : from_) {
      if (!used_.count(name)) misfit(name, "the new model has no place for it");
    }
  }

 private:
  [[noreturn]] static void misfit(const std::string& name, const std::string& why) {
    fail(Exit::config, "init.from_dense: ", name, ": ", why,
         ". The dense model must have the same layers, dim, heads, context and vocab, and its MLP "
         "the hidden size of the experts (moe.hidden; moe.shared_hidden with moe.residual)");
  }

  const Tensor& source(const std::string& name, const std::string& asked_for) {
    const auto found = from_.find(name);
    if (found == from_.end()) misfit(asked_for, "the dense model has no " + name);
    used_[name] = true;
    return found->second;
  }

  void copy(const Tensor& value, const Tensor& to, const std::string& name) const {
    if (value.shape() != to.shape()) {
      misfit(name, "the dense model has " + to_string(value.shape()) + ", expected " +
                       to_string(to.shape()));
    }
    to.copy_from(value.to(to.device()).to(to.dtype()));
  }

  void fill(const std::string& name, const Tensor& value) {
    FfnName ffn;
    if (!split_ffn(name, ffn)) return copy(source(name, name), value, name);
    if (ffn.tail.rfind("router.", 0) == 0) return;
    if (ffn.tail.rfind("mix.", 0) == 0) return value.zero();
    if (ffn.tail.rfind("mlp.", 0) == 0) return fill_mlp(name, ffn, value);
    if (ffn.tail.rfind("experts.", 0) != 0) return copy(source(name, name), value, name);
    if (ffn.residual) {
      if (ends_with(name, ".down.weight") || ends_with(name, ".down.bias")) value.zero();
      return;
    }
    const Tensor& mlp = source(ffn.stem + ffn.tail.substr(8), name);
    for (int64_t e = 0; e < value.dim(0); ++e) {
      Shape one(value.shape().begin() + 1, value.shape().end());
      copy(mlp, value.rows(e, e + 1).reshape(one), name);
    }
  }

  void fill_mlp(const std::string& name, const FfnName& ffn, const Tensor& value) {
    copy(source(ffn.stem + ffn.tail.substr(4), name), value, name);
    const bool mixed = into_.count(ffn.stem + "mix.weight") > 0;
    if (mixed && ffn.tail.rfind("mlp.down.", 0) == 0) {
      const Tensor half = value.clone();
      Tensor twice = value;
      kernels::scale(half, 2, twice);
    }
  }

  std::map<std::string, Tensor> from_, into_;
  std::map<std::string, bool> used_;
};

}  // namespace

void upcycle(nn::Gpt& dense, nn::Gpt& moe) { Upcycle(dense, moe).run(); }

}  // namespace pyramoe::moe
