// Hugging Face folders: round trips move bits and change none; what cannot be expressed is refused.
#include "infer/hf.h"

#include "core/file.h"
#include "data/bpe.h"
#include "data/byte_alphabet.h"
#include "infer/hf_config.h"
#include "infer/hf_tensors.h"
#include "infer/hf_tokenizer.h"
#include "tests/infer/support.h"

namespace pyramoe::infer {
namespace {

std::unique_ptr<data::Tokenizer> small_bpe() {
  // The 256 bytes, two merges and the end of text.
  std::vector<std::string> names;
  for (int b = 0; b < 256; ++b)
    names.push_back(data::to_alphabet(std::string(1, static_cast<char>(b))));
  names.insert(names.end(), {"he", "hel", data::kEndOfText});
  return data::make_bpe_tokenizer(data::Bpe(names, {{'h', 'e'}, {256, 'l'}}));
}

class Hf : public ::testing::Test {
 protected:
  std::string at(const std::string& name) const { return folder_.path() + "/" + name; }
  void expect_same_files(const std::string& a, const std::string& b) const {
    const std::vector<std::string> names = list_folder(at(a));
    EXPECT_EQ(names, list_folder(at(b)));
    for (const std::string& name : names) {
      EXPECT_TRUE(read_file(at(a) + "/" + name) == read_file(at(b) + "/" + name)) << name;
    }
  }
  // A folder as Hugging Face would write it, every tensor different.
  void write_gpt2(const std::string& name, DType dtype, const std::string& prefix) const {
    std::vector<std::pair<std::string, Tensor>> tensors;
    for (const auto& [tensor, shape] : gpt2_shapes()) {
      Tensor value(shape, DType::f32);
      const RngKey key{hash_name(tensor), RngPurpose::test, 0, 0};
      for (int64_t i = 0; i < value.numel(); ++i) {
        value.data<float>()[i] = static_cast<float>(random_normal(key, static_cast<uint64_t>(i)));
      }
      tensors.emplace_back(prefix + tensor, value.to(dtype));
    }
    make_folders(at(name));
    write_safetensors(at(name) + "/model.safetensors", tensors, {{"format", "pt"}});
    write_file(at(name) + "/config.json",
               R"({"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, )"
               R"("n_positions": 16, "vocab_size": 30, "activation_function": "gelu_new"})");
  }
  static std::vector<std::pair<std::string, Shape>> gpt2_shapes() {
    std::vector<std::pair<std::string, Shape>> all = {
        {"wte.weight", {30, 8}}, {"wpe.weight", {16, 8}}, {"ln_f.weight", {8}}, {"ln_f.bias", {8}}};
    for (const std::string h : {"h.0.", "h.1."}) {
      const std::vector<std::pair<std::string, Shape>> block = {{"ln_1.weight", {8}},
                                                                {"ln_1.bias", {8}},
                                                                {"attn.c_attn.weight", {8, 24}},
                                                                {"attn.c_attn.bias", {24}},
                                                                {"attn.c_proj.weight", {8, 8}},
                                                                {"attn.c_proj.bias", {8}},
                                                                {"ln_2.weight", {8}},
                                                                {"ln_2.bias", {8}},
                                                                {"mlp.c_fc.weight", {8, 32}},
                                                                {"mlp.c_fc.bias", {32}},
                                                                {"mlp.c_proj.weight", {32, 8}},
                                                                {"mlp.c_proj.bias", {8}}};
      for (const auto& [name, shape] : block) all.emplace_back(h + name, shape);
    }
    return all;
  }
  // config.json of `write_gpt2` with one key set.
  void set_config(const std::string& name, const std::string& key, const Json& value) const {
    Json json = read_json(at(name) + "/config.json");
    json[key] = value;
    write_file(at(name) + "/config.json", dump_json(json));
  }
  ScratchFolder folder_;
};

TEST_F(Hf, ExportImportExportGivesTheSameFiles) {
  const auto tokenizer = small_bpe();
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    const std::string t = to_string(dtype);
    for (size_t family = 0; family < families().size(); ++family) {
      const std::string n = t + families()[family].name;
      save_run(at("run" + n), tiny_config(families()[family], 259), tokenizer.get(), dtype);
      const HfReport out = export_hf(at("run" + n), at("hf" + n));
      EXPECT_EQ(out.dtype, dtype);
      EXPECT_EQ(out.model_type, family == 0 ? "gpt2" : "pyramoe");
      EXPECT_TRUE(out.has_tokenizer);
      const HfReport in = import_hf(at("hf" + n), at("back" + n));
      EXPECT_EQ(in.tensors, out.tensors);
      export_hf(at("back" + n), at("again" + n));
      expect_same_files("hf" + n, "again" + n);
    }
  }
}

TEST_F(Hf, AnImportedModelComputesTheSame) {
  const auto tokenizer = small_bpe();
  for (size_t family = 0; family < families().size(); ++family) {
    const std::string n = families()[family].name;
    save_run(at("run" + n), tiny_config(families()[family], 259), tokenizer.get());
    export_hf(at("run" + n), at("hf" + n));
    import_hf(at("hf" + n), at("back" + n));
    const LoadedRun a = load_run(at("run" + n)), b = load_run(at("back" + n));
    const Tokens text = random_tokens(20, 259, 3);
    EXPECT_TRUE(same_bits(full_logits(*a.model, text), full_logits(*b.model, text))) << n;
    EXPECT_EQ(a.tokenizer->hash(), b.tokenizer->hash());
  }
}

TEST_F(Hf, ImportExportKeepsEveryTensor) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::string t = to_string(dtype);
    write_gpt2("in" + t, dtype, "");  // as the first GPT-2 files, without "transformer."
    EXPECT_EQ(import_hf(at("in" + t), at("run" + t)).dtype, dtype);
    EXPECT_EQ(load_run(at("run" + t)).dtype, dtype);
    export_hf(at("run" + t), at("out" + t));
    const HfTensors in(at("in" + t)), out(at("out" + t));
    EXPECT_EQ(in.names(), out.names());
    for (const std::string& name : in.names()) {
      EXPECT_TRUE(same_bits(in.at(name), out.at(name))) << name;
    }
  }
}

TEST_F(Hf, TransposesConv1dAndPacksQkv) {
  write_gpt2("in", DType::f32, "transformer.");
  import_hf(at("in"), at("run"));
  const HfTensors in(at("in"));
  const LoadedRun run = load_run(at("run"));
  int64_t checked = 0;
  for (const HfName& name : gpt2_names(2)) {
    if (name.hf.find(".c_") == std::string::npos || !name.hf.ends_with("weight")) continue;
    const Tensor theirs = in.at(name.hf);  // (in, out)
    for (const nn::Parameter* parameter : run.model->parameters()) {
      if (parameter->name != name.ours) continue;
      const float* ours = parameter->var.value().data<float>();  // (out, in); qkv (3, D, in)
      for (int64_t o = 0; o < theirs.dim(1); ++o) {
        for (int64_t i = 0; i < theirs.dim(0); ++i, ++checked) {
          ASSERT_EQ(ours[o * theirs.dim(0) + i], theirs.data<float>()[i * theirs.dim(1) + o])
              << name.hf;
        }
      }
    }
  }
  EXPECT_EQ(checked, 2 * (8 * 24 + 8 * 8 + 8 * 32 + 32 * 8));
}

// Logits that transformers 5.23 (GPT2LMHeadModel in float64) gave for these weights.
TEST_F(Hf, ComputesWhatTransformersComputes) {
  write_gpt2("in", DType::f64, "transformer.");
  std::vector<std::pair<std::string, Tensor>> tensors;
  int64_t k = 0;
  for (const auto& [name, shape] : gpt2_shapes()) {
    Tensor value(shape, DType::f64);
    const bool scale = name.find("ln_") != std::string::npos && name.ends_with("weight");
    for (int64_t i = 0; i < value.numel(); ++i) {
      value.data<double>()[i] =
          static_cast<double>((i * 7919 + k * 104729) % 1009 - 504) / 600 + (scale ? 1 : 0);
    }
    tensors.emplace_back(name, value);
    ++k;
  }
  write_safetensors(at("in/model.safetensors"), tensors);
  EXPECT_EQ(import_hf(at("in"), at("run")).dtype, DType::f64);
  const LoadedRun run = load_run(at("run"));
  const Tensor logits = full_logits(*run.model, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
  const double* last = logits.data<double>() + 11 * 30;
  EXPECT_NEAR(last[0], 1.5509772086059663, 1e-13);
  EXPECT_NEAR(last[1], 3.0729448801440942, 1e-13);
  EXPECT_NEAR(last[2], -2.4174360342747536, 1e-13);
  EXPECT_NEAR(last[3], -1.3024644846933942, 1e-13);
  EXPECT_NEAR(last[4], 0.38326469316372253, 1e-13);
  EXPECT_NEAR(last[5], 1.5160083023807622, 1e-13);
  EXPECT_NEAR(logits.data<double>()[5 * 30 + 29], 1.9676496936782897, 1e-13);
  double sum = 0;
  for (const double logit : logits.to_vector()) sum += logit;
  EXPECT_NEAR(sum, -11.687719580032145, 1e-11);
}

TEST_F(Hf, PadsAndCutsTheVocabulary) {
  const auto tokenizer = small_bpe();
  save_run(at("run"), tiny_config(families()[0], 320), tokenizer.get());
  EXPECT_EQ(export_hf(at("run"), at("hf")).vocab, 259);
  EXPECT_EQ(HfTensors(at("hf")).at("wte.weight").dim(0), 259);
  const Json config = read_json(at("hf/config.json"));
  EXPECT_EQ(config["vocab_size"], 259);
  EXPECT_EQ(config["eos_token_id"], tokenizer->eot());
  EXPECT_EQ(import_hf(at("hf"), at("padded"), 64).vocab, 320);
  const LoadedRun padded = load_run(at("padded"));
  EXPECT_EQ(padded.config.vocab, 320);
  const Tensor table = padded.model->parameters()[0]->var.value();
  for (const double x : table.rows(259, 320).to_vector()) EXPECT_EQ(x, 0);
  export_hf(at("padded"), at("again"));
  expect_same_files("hf", "again");
}

TEST_F(Hf, ReadsHalfFloatsShardsMasksAndATiedHead) {
  write_gpt2("in", DType::f32, "");
  const HfTensors whole(at("in"));
  // Two shards, the masks of old exports, and the head written out.
  std::vector<std::pair<std::string, Tensor>> one, two;
  Json map = Json::object();
  for (const std::string& name : whole.names()) {
    const bool first = map.size() % 2 == 0;
    (first ? one : two).emplace_back("transformer." + name, whole.at(name));
    map["transformer." + name] = first ? "a.safetensors" : "b.safetensors";
  }
  one.emplace_back("transformer.h.0.attn.bias", Tensor::zeros({1, 1, 16, 16}, DType::u8));
  one.emplace_back("transformer.h.1.attn.masked_bias", Tensor::zeros({1}, DType::f32));
  two.emplace_back("lm_head.weight", whole.at("wte.weight"));
  make_folders(at("shards"));
  write_safetensors(at("shards/a.safetensors"), one);
  write_safetensors(at("shards/b.safetensors"), two);
  write_file(at("shards/model.safetensors.index.json"), dump_json({{"weight_map", map}}));
  write_file(at("shards/config.json"), read_file(at("in/config.json")));
  import_hf(at("in"), at("run1"));
  import_hf(at("shards"), at("run2"));
  export_hf(at("run1"), at("out1"));
  export_hf(at("run2"), at("out2"));
  expect_same_files("out1", "out2");
}

TEST_F(Hf, RefusesWhatItCannotExpress) {
  const std::vector<std::pair<std::string, Json>> bad = {{"activation_function", "relu"},
                                                         {"layer_norm_epsilon", 1e-6},
                                                         {"scale_attn_by_inverse_layer_idx", true},
                                                         {"scale_attn_weights", false},
                                                         {"tie_word_embeddings", false},
                                                         {"add_cross_attention", true},
                                                         {"model_type", "llama"},
                                                         {"n_embd", 0},
                                                         {"n_layer", "2"},
                                                         {"n_head", nullptr},
                                                         {"n_head", 3}};
  for (const auto& [key, value] : bad) {
    write_gpt2("in", DType::f32, "");
    set_config("in", key, value);
    const std::string part = key == "n_head" && value == 3 ? "heads" : key;
    EXPECT_EQ(exit_of([&] { import_hf(at("in"), at("run")); }, part), Exit::checkpoint) << key;
    EXPECT_FALSE(path_exists(at("run")));
  }
}

TEST_F(Hf, RefusesTensorsThatDoNotFit) {
  write_gpt2("in", DType::f32, "");
  set_config("in", "n_layer", 1);
  const auto run = [&] { import_hf(at("in"), at("run")); };
  EXPECT_EQ(exit_of(run, "h.1."), Exit::checkpoint);
  set_config("in", "n_layer", 3);
  EXPECT_EQ(exit_of(run, "\"h.2.ln_1.weight\" is missing"), Exit::checkpoint);
  set_config("in", "n_layer", 2);
  set_config("in", "vocab_size", 31);
  EXPECT_EQ(exit_of(run, "wte.weight"), Exit::checkpoint);
  set_config("in", "vocab_size", 30);
  set_config("in", "n_inner", 16);
  EXPECT_EQ(exit_of(run, "mlp.c_fc"), Exit::checkpoint);
  write_file(at("in/model.safetensors"), "short");
  EXPECT_EQ(exit_of(run, "model.safetensors"), Exit::checkpoint);
  remove_tree(at("in/model.safetensors"));
  EXPECT_EQ(exit_of(run, "neither"), Exit::checkpoint);
  write_file(at("in/pytorch_model.bin"), "pickle");
  EXPECT_EQ(exit_of(run, "safe_serialization"), Exit::checkpoint);
  EXPECT_EQ(exit_of([&] { import_hf(at("nothing"), at("run")); }, "config.json"), Exit::checkpoint);
  EXPECT_FALSE(path_exists(at("run")));
}

TEST_F(Hf, RefusesAnUntiedHeadAndATakenRun) {
  write_gpt2("in", DType::f32, "");
  const HfTensors whole(at("in"));
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const std::string& name : whole.names()) tensors.emplace_back(name, whole.at(name));
  tensors.emplace_back("lm_head.weight", Tensor::zeros({30, 8}, DType::f32));
  make_folders(at("untied"));
  write_safetensors(at("untied/model.safetensors"), tensors);
  write_file(at("untied/config.json"), read_file(at("in/config.json")));
  EXPECT_EQ(exit_of([&] { import_hf(at("untied"), at("run")); }, "lm_head"), Exit::checkpoint);
  import_hf(at("in"), at("run"));
  EXPECT_EQ(exit_of([&] { import_hf(at("in"), at("run")); }, "already holds"), Exit::config);
}

TEST_F(Hf, ReadsATokenizerJson) {
  const auto tokenizer = small_bpe();
  make_folders(at("files"));
  make_folders(at("json"));
  write_hf_tokenizer(*tokenizer, 24, at("files"));
  Json root;
  Json vocab = read_json(at("files/vocab.json"));
  vocab.erase(data::kEndOfText);
  root["added_tokens"] = {{{"id", 258}, {"content", data::kEndOfText}}};
  root["pre_tokenizer"] = {{"type", "ByteLevel"}};
  root["model"] = {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}};
  root["model"]["merges"].push_back("h e");
  root["model"]["merges"].push_back(Json::array({"he", "l"}));
  write_file(at("json/tokenizer.json"), dump_json(root));
  EXPECT_EQ(read_hf_tokenizer(at("json"))->hash(), tokenizer->hash());
  EXPECT_EQ(read_hf_tokenizer(at("files"))->hash(), tokenizer->hash());
  EXPECT_EQ(read_hf_tokenizer(folder_.path()), nullptr);
  root["pre_tokenizer"] = {{"type", "Metaspace"}};
  write_file(at("json/tokenizer.json"), dump_json(root));
  EXPECT_EQ(exit_of([&] { read_hf_tokenizer(at("json")); }, "ByteLevel"), Exit::data);
}

TEST_F(Hf, ATokenizerWithoutGpt2FilesTravelsInAFolderOfItsOwn) {
  const auto bytes = data::make_byte_tokenizer(), letters = data::make_char_tokenizer("abcdé");
  for (const data::Tokenizer* tokenizer : {bytes.get(), letters.get()}) {
    const std::string n = std::to_string(tokenizer->vocab_size());
    save_run(at("run" + n), tiny_config(families()[0], 260), tokenizer);
    const HfReport report = export_hf(at("run" + n), at("hf" + n));
    EXPECT_TRUE(report.has_tokenizer && report.own_tokenizer);
    EXPECT_FALSE(path_exists(at("hf" + n + "/vocab.json")));
    EXPECT_EQ(report.vocab, tokenizer->vocab_size());
    const HfReport back = import_hf(at("hf" + n), at("back" + n));
    EXPECT_TRUE(back.has_tokenizer);
    EXPECT_EQ(load_run(at("back" + n)).tokenizer->hash(), tokenizer->hash());
    export_hf(at("run" + n), at("hf" + n));  // over itself
  }
}

TEST_F(Hf, ExportLeavesNoOtherTokenizerForImportToTake) {
  const auto letters = data::make_char_tokenizer("abc"), bpe = small_bpe();
  save_run(at("letters"), tiny_config(families()[0], 260), letters.get());
  save_run(at("bpe"), tiny_config(families()[0], 259), bpe.get());
  save_run(at("none"), tiny_config(families()[0], 259), nullptr);
  export_hf(at("bpe"), at("hf"));
  for (const char* run : {"letters", "none"}) {
    EXPECT_EQ(exit_of([&] { export_hf(at(run), at("hf")); }, "another model"), Exit::config) << run;
  }
  export_hf(at("letters"), at("own"));
  EXPECT_EQ(exit_of([&] { export_hf(at("none"), at("own")); }, "another model"), Exit::config);
  export_hf(at("bpe"), at("own"));  // GPT-2's files are read before tokenizer/
  EXPECT_EQ(read_hf_tokenizer(at("own"))->hash(), bpe->hash());
}

}  // namespace
}  // namespace pyramoe::infer
