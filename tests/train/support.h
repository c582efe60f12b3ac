// What the training tests share: small configs, scratch run folders, bitwise comparison.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <string>

#include "train/trainer.h"

namespace pyramoe::test {

// A folder that is deleted with the object.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "pyramoe_XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  std::string path(const std::string& name = "") const {
    return name.empty() ? path_ : path_ + "/" + name;
  }

 private:
  std::string path_;
};

// A PR-MoE that trains a step in milliseconds.
inline train::RunConfig small_config(const std::string& dir) {
  train::RunConfig config;
  config.dir = dir;
  config.model.layers = 2;
  config.model.dim = 16;
  config.model.heads = 2;
  config.model.context = 16;
  config.model.vocab = 64;
  config.model.experts = "0 4";
  config.model.residual = true;
  config.model.capacity_factor = 1.0;
  config.model.noise = "rsample";
  config.model.dropout = 0.1;
  config.data.synthetic = true;
  config.train.batch = 4;
  config.train.micro_batch = 2;
  config.train.steps = 12;
  config.train.lr = 3e-3;
  config.train.min_lr = 3e-4;
  config.train.warmup_tokens = 128;
  return config;
}

using Bits = std::map<std::string, std::string>;

inline std::string bits_of(const Tensor& x) {
  return std::string(static_cast<const char*>(x.raw()), static_cast<size_t>(x.bytes()));
}

// Every parameter, buffer and optimizer tensor of a trainer, as bytes.
inline Bits state_bits(train::Trainer& trainer) {
  Bits bits;
  for (const nn::Parameter* p : trainer.model().parameters(true)) {
    bits[p->name] = bits_of(p->var.value());
  }
  for (const nn::NamedTensor& t : trainer.optimizer().state()) bits[t.name] = bits_of(t.value);
  bits["updates"] = std::to_string(trainer.optimizer().updates());
  return bits;
}

inline void expect_equal_bits(const Bits& a, const Bits& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, bytes] : a) {
    ASSERT_TRUE(b.count(name)) << name;
    EXPECT_TRUE(b.at(name) == bytes) << name << " differs";
  }
}

}  // namespace pyramoe::test
