// A safetensors file in memory: refused, or every tensor lies where its header says.
#include "core/safetensors.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pyramoe;
  expect_answer([&] {
    const SafetensorsHeader header =
        parse_safetensors(std::as_bytes(std::span(data, size)), "fuzz.safetensors");
    int64_t next = header.entries.empty() ? static_cast<int64_t>(size) : header.entries[0].begin;
    for (const SafetensorsEntry& entry : header.entries) {
      require(entry.begin == next && entry.begin >= 8, "tensors lie side by side");
      require(entry.end >= entry.begin, "no tensor has a negative size");
      require(!entry.type || entry.bytes() == numel(entry.shape) * size_of(*entry.type),
              "a tensor has the bytes of its shape");
      next = entry.end;
    }
    require(next == static_cast<int64_t>(size), "tensors reach to the end of the file");
  });
  return 0;
}
