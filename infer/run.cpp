// See run.h.
#include "infer/run.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "core/config.h"
#include "core/file.h"
#include "moe/build_model.h"

namespace pyramoe::infer {
namespace {

// Texts of a run that has no tokenizer.
class RawTokenizer : public data::Tokenizer {
 public:
  explicit RawTokenizer(int64_t vocab) : size_(std::min<int64_t>(vocab, 256)) {}
  std::vector<int32_t> encode(std::string_view text, bool /*with_special*/) const override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<uint8_t>(c) % static_cast<int32_t>(size_));
    return ids;
  }
  std::string token(int32_t id) const override {
    PM_CHECK(id >= 0 && id < size_, "decode: token ", id, " of ", size_);
    return std::string(1, static_cast<char>(id));
  }
  int64_t vocab_size() const override { return size_; }
  int32_t eot() const override { return -1; }
  std::string kind() const override { return "raw"; }
  std::vector<data::NamedFile> files() const override { return {}; }

 private:
  int64_t size_;
};

// The run that a checkpoint folder lies in: RUN/checkpoints/step_NNNNNNNN.
std::string run_of(const std::string& checkpoint_folder) {
  std::filesystem::path path = std::filesystem::path(checkpoint_folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  const std::filesystem::path above = path.parent_path();
  if (above.filename() != "checkpoints") return path.string();
  const std::filesystem::path run = above.parent_path();
  return run.empty() ? "." : run.string();
}

// Only the keys that ModelConfig has: a run's settings hold the trainer's too.
bool is_model_key(const std::string& key) {
  return key.starts_with("model.") || key.starts_with("moe.");
}

}  // namespace

std::unique_ptr<data::Tokenizer> make_raw_tokenizer(int64_t vocab) {
  return std::make_unique<RawTokenizer>(vocab);
}

moe::ModelConfig model_config_of(const nn::Checkpoint& checkpoint) {
  const std::string where = checkpoint.folder() + "/config.toml";
  try {
    const ConfigSource all = parse_config(checkpoint.config(), where);
    ConfigSource model_only;
    for (const ConfigItem& item : all.items()) {
      if (is_model_key(item.key)) model_only.set(item);
    }
    moe::ModelConfig config;
    apply_config(model_only, config);
    return config;
  } catch (const Error& error) {
    fail(Exit::checkpoint, "the settings stored with ", checkpoint.folder(),
         " cannot be used: ", error.what());
  }
}

DType trained_dtype(const nn::Checkpoint& checkpoint) {
  const ConfigSource source =
      parse_config(checkpoint.config(), checkpoint.folder() + "/config.toml");
  const ConfigItem* item = source.find("train.dtype");
  if (!item || !std::holds_alternative<std::string>(item->value)) return DType::f32;
  return parse_dtype(std::get<std::string>(item->value)).value_or(DType::f32);
}

std::optional<DType> parse_dtype(const std::string& text) {
  if (text.empty()) return {};
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    if (text == to_string(dtype)) return dtype;
  }
  fail(Exit::config, "dtype: expected f32, bf16 or f64, got \"", text, "\"");
}

LoadedRun load_run(const std::string& path, std::optional<DType> dtype, Device device) {
  const nn::Checkpoint checkpoint = nn::Checkpoint::find(path);
  LoadedRun run;
  run.config = model_config_of(checkpoint);
  run.step = checkpoint.step();
  run.checkpoint = checkpoint.folder();
  run.folder = run_of(checkpoint.folder());
  run.dtype = dtype.value_or(trained_dtype(checkpoint));
  run.device = device;

  const std::string tokenizer = run.folder + "/tokenizer";
  run.has_tokenizer = is_folder(tokenizer);
  run.tokenizer =
      run.has_tokenizer ? data::load_tokenizer(tokenizer) : make_raw_tokenizer(run.config.vocab);
  if (run.tokenizer->vocab_size() > run.config.vocab) {
    fail(Exit::checkpoint, tokenizer, " has ", run.tokenizer->vocab_size(),
         " tokens, but the model of ", run.checkpoint,
         " knows only model.vocab = ", run.config.vocab, "; they are not from one run");
  }
  run.model = moe::build_model(run.config, nn::Build{run.dtype, device}, false);
  checkpoint.load_model(*run.model);
  return run;
}

}  // namespace pyramoe::infer
