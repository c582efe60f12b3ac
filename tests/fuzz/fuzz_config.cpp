// A config file and overrides (after zero bytes): refused, or a config that reads back the same.
#include "core/config.h"
#include "tests/fuzz/fuzz.h"
#include "train/run_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pyramoe;
  std::vector<std::string> parts = parts_of(data, size, 8);
  const std::string toml = parts[0];
  parts.erase(parts.begin());
  expect_answer([&] {
    train::RunConfig config;
    apply_config(parse_config(toml, "fuzz.toml", parts), config);
    const std::string text = to_toml(config);
    train::RunConfig again;
    apply_config(parse_config(text, "again.toml"), again);
    require(to_toml(again) == text, "a resolved config reads back the same");
  });
  return 0;
}
