// Runs from disk: whole, damaged, missing, mismatched.
#include "infer/run.h"

#include "core/file.h"
#include "tests/infer/support.h"

namespace pyramoe::infer {
namespace {

class Runs : public ::testing::Test {
 protected:
  std::string path() const { return folder_.path() + "/run"; }
  std::string checkpoint(int64_t step) const {
    return path() + "/checkpoints/step_0000000" + std::to_string(step);
  }
  void save(int64_t step, uint64_t seed = 7, int64_t vocab = 260) {
    const auto tokenizer = data::make_byte_tokenizer();
    save_run(path(), tiny_config(families()[1], vocab), tokenizer.get(), DType::f32, step, seed);
  }
  ScratchFolder folder_;
};

Tensor table(const LoadedRun& run) { return run.model->parameters()[0]->var.value(); }

TEST_F(Runs, LoadFromTheRunOrOneCheckpoint) {
  save(3, 1);
  save(5, 2);
  const LoadedRun newest = load_run(path());
  EXPECT_EQ(newest.step, 5);
  EXPECT_EQ(newest.folder, path());
  EXPECT_EQ(newest.dtype, DType::f32);
  EXPECT_EQ(newest.config.experts, "0 4 4");
  EXPECT_EQ(newest.tokenizer->vocab_size(), 257);
  const LoadedRun older = load_run(checkpoint(3) + "/");
  EXPECT_EQ(older.step, 3);
  EXPECT_EQ(older.folder, path());
  EXPECT_TRUE(older.has_tokenizer);
  EXPECT_FALSE(same_bits(table(older), table(newest)));
  EXPECT_EQ(load_run(path(), DType::f64).dtype, DType::f64);
  EXPECT_EQ(table(load_run(path(), DType::f64)).dtype(), DType::f64);
}

TEST_F(Runs, FallBackToAnOlderIntactCheckpoint) {
  save(3);
  save(5);
  const std::string file = checkpoint(5) + "/model.safetensors";
  std::string bytes = read_file(file);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  write_file(file, bytes);
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(load_run(path()).step, 3);
  EXPECT_NE(::testing::internal::GetCapturedStderr().find(file), std::string::npos);
  EXPECT_EQ(exit_of([&] { load_run(checkpoint(5)); }, file), Exit::checkpoint);
}

TEST_F(Runs, SayWhatIsMissing) {
  EXPECT_EQ(exit_of([&] { load_run(path()); }, "no such run"), Exit::checkpoint);
  make_folders(path());
  EXPECT_EQ(exit_of([&] { load_run(path()); }, "no checkpoint"), Exit::checkpoint);
}

TEST_F(Runs, RefuseATokenizerThatIsTooLarge) {
  save(3, 7, 200);
  EXPECT_EQ(exit_of([&] { load_run(path()); }, "257 tokens"), Exit::checkpoint);
}

TEST_F(Runs, WithoutTokenizerReadBytes) {
  save_run(path(), tiny_config(families()[0], 100), nullptr);
  const LoadedRun run = load_run(path());
  EXPECT_FALSE(run.has_tokenizer);
  EXPECT_EQ(run.tokenizer->encode("A\xFF"), (Tokens{65, 55}));
  EXPECT_EQ(run.tokenizer->vocab_size(), 100);
  EXPECT_EQ(make_raw_tokenizer(300)->vocab_size(), 256);
}

TEST_F(Runs, RefuseSettingsThatAreNone) {
  const auto tokenizer = data::make_byte_tokenizer();
  auto config = tiny_config(families()[0], 260);
  save_run(path(), config, tokenizer.get());
  nn::CheckpointContent content;
  content.step = 9;
  content.config = "[model]\nlayers = 0\n";
  content.model = {{"x", Tensor::zeros({1}, DType::f32)}};
  nn::save_checkpoint(path(), content);
  EXPECT_EQ(exit_of([&] { load_run(path()); }, "model.layers"), Exit::checkpoint);
}

TEST(Dtype, IsParsed) {
  EXPECT_FALSE(parse_dtype("").has_value());
  EXPECT_EQ(parse_dtype("bf16"), DType::bf16);
  EXPECT_EQ(exit_of([] { parse_dtype("i32"); }, "f32, bf16 or f64"), Exit::config);
}

}  // namespace
}  // namespace pyramoe::infer
