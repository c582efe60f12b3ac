// Small run folders as pyramoe train leaves them, with numbers that a test can know beforehand.
#pragma once

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "tests/core/temp_folder.h"

namespace pyramoe {

inline void put_file(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

inline constexpr const char* kDenseConfig =
    "model.layers = 4\nmodel.dim = 32\nmodel.heads = 4\nmodel.context = 16\nmodel.vocab = 64\n"
    "data.synthetic = true\n";
inline constexpr const char* kMoeExperts = "moe.experts = \"0 2 0 4\"\n";

// `steps` steps of 100 tokens; the loss falls as 5 / (1 + step / 10) + floor.
inline std::string metrics(int steps, double floor, bool experts) {
  std::ostringstream out;
  for (int step = 1; step <= steps; ++step) {
    out << "{\"step\":" << step << ",\"loss\":" << 5.0 / (1 + step / 10.0) + floor
        << ",\"tokens\":" << step * 100 << ",\"tokens_per_s\":" << 1000 + step
        << ",\"grad_norm\":1.0,\"lr\":0.001,\"step_ms\":100.0";
    if (experts) out << ",\"balance_loss\":1.0,\"dropped\":0.25,\"imbalance\":1.5";
    out << "}\n";
  }
  out << "{\"step\":" << steps << ",\"tokens\":" << steps * 100
      << ",\"val_loss\":2.5,\"val_tokens\":400}\n";
  return out.str();
}

inline constexpr const char* kDenseEval =
    R"({"step":100,"tokens":10000,"loss":2.5,"domains":{"bible":{"loss":2.25,"tokens":200},)"
    R"("code":{"loss":2.75,"tokens":200}}})";
inline constexpr const char* kMoeEval =
    R"({"step":100,"tokens":10000,"loss":2.4,"imbalance":1.2,"moe_layers":[1,3],"domains":{)"
    R"("bible":{"loss":2.0,"tokens":200,"load":[[150,50],[200,0,0,0]]},)"
    R"("code":{"loss":2.8,"tokens":200,"load":[[50,150],[50,50,50,50]]}}})";

struct RunFolders {
  TempFolder temp;
  std::string dense = temp / "dense", moe = temp / "moe";

  RunFolders() {
    put_file(dense + "/config.toml", kDenseConfig);
    put_file(dense + "/metrics.jsonl", metrics(100, 1.0, false));
    put_file(dense + "/eval.json", kDenseEval);
    put_file(moe + "/config.toml", std::string(kDenseConfig) + kMoeExperts);
    put_file(moe + "/metrics.jsonl", metrics(100, 0.9, true));
    put_file(moe + "/eval.json", kMoeEval);
  }
};

}  // namespace pyramoe
