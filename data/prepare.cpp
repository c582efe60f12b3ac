// Reads documents until there is enough work for all threads, encodes, writes, and goes on.
#include "data/prepare.h"

#include "core/error.h"
#include "core/file.h"
#include "core/parallel.h"
#include "data/token_file.h"

namespace pyramoe::data {
namespace {

constexpr size_t kShare = size_t{8} << 20;  // bytes of text encoded at a time

// Encodes the waiting documents and writes them; then none is waiting.
void flush(std::vector<Document>& waiting, const Tokenizer& tokenizer, TokenFileWriter& writer,
           PrepareResult& result) {
  std::vector<std::vector<int32_t>> ids(waiting.size());
  if (waiting.size() == 1) {
    ids[0] = tokenizer.encode(waiting[0].text);  // spreads a long text over the threads itself
  } else {
    parallel_for(static_cast<int64_t>(waiting.size()), 1, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        ids[i] = tokenizer.encode(waiting[i].text);
      }
    });
  }
  const int32_t eot = tokenizer.eot();
  for (size_t i = 0; i < waiting.size(); ++i) {
    if (waiting[i].begins) {
      writer.begin_document();
      ++result.documents;
    }
    if (waiting[i].ends && eot >= 0) ids[i].push_back(eot);
    writer.write(ids[i]);
    result.text_bytes += static_cast<int64_t>(waiting[i].text.size());
  }
  waiting.clear();
}

}  // namespace

PrepareResult prepare_dataset(const std::vector<std::string>& inputs, const Tokenizer& tokenizer,
                              const std::string& out, const PrepareOptions& options) {
  if (inputs.empty()) fail(Exit::config, "prepare: no input files");
  int64_t total = 0, done = 0;
  for (const std::string& input : inputs) {
    if (is_folder(input)) fail(Exit::data, input, ": this is a folder; name the files in it");
    total += file_bytes(input);
  }
  TokenFileWriter writer(out, tokenizer.vocab_size(), tokenizer.hash());
  PrepareResult result;
  std::vector<Document> waiting;
  size_t bytes = 0;
  for (const std::string& input : inputs) {
    TextReader reader(input, options.text);
    Document document;
    while (reader.next(document)) {
      bytes += document.text.size();
      waiting.push_back(std::move(document));
      document = {};
      if (bytes < kShare) continue;
      flush(waiting, tokenizer, writer, result);
      bytes = 0;
      if (options.progress) options.progress(done + reader.bytes_read(), total);
    }
    done += reader.bytes_total();
  }
  flush(waiting, tokenizer, writer, result);
  writer.commit();
  if (options.progress) options.progress(total, total);
  result.tokens = writer.tokens();
  return result;
}

}  // namespace pyramoe::data
