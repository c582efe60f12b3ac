// The two files of a vocabulary, with a zero byte between: refused, or one that loses no byte.
#include "data/bpe.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pyramoe;
  const std::vector<std::string> parts = parts_of(data, size, 2);
  if (parts.size() < 2) return 0;
  expect_answer([&] {
    const data::Bpe bpe = data::Bpe::parse(parts[0], parts[1], "vocab.json", "merges.txt");
    const std::string text = parts[1].substr(0, 200);
    const std::vector<int32_t> ids = bpe.encode(text);
    require(bpe.decode(ids) == text, "decode(encode(bytes)) == bytes");
    const data::Bpe again =
        data::Bpe::parse(bpe.vocab_json(), bpe.merges_text(), "again.json", "again.txt");
    require(again.encode(text) == ids, "a saved vocabulary encodes the same");
  });
  return 0;
}
