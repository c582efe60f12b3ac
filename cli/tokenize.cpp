// pyramoe tokenize: text to token ids and back, token files for training, new vocabularies.
#include <unistd.h>

#include <fmt/format.h>

#include <charconv>
#include <chrono>
#include <cstdio>

#include "cli/commands.h"
#include "core/file.h"
#include "core/json.h"
#include "data/bpe.h"
#include "data/bpe_trainer.h"
#include "data/prepare.h"
#include "data/text_reader.h"
#include "data/token_file.h"
#include "data/tokenizer.h"

namespace pyramoe {
namespace {

struct Options {
  std::string tokenizer, vocab, merges;  // which tokenizer
  bool bytes = false;
  std::string jsonl, text, field = "text", out, kind = "bpe";
  std::vector<std::string> inputs;
  std::vector<int32_t> ids;
  bool special = false;
  int64_t vocab_size = 8192, min_count = 2;
};

std::unique_ptr<data::Tokenizer> open_tokenizer(const Options& options) {
  const bool files = !options.vocab.empty() || !options.merges.empty();
  if ((options.tokenizer.empty() ? 0 : 1) + (files ? 1 : 0) + (options.bytes ? 1 : 0) != 1) {
    fail(Exit::config,
         "tokenize: name one tokenizer: --tokenizer FOLDER, or --vocab FILE --merges FILE, or "
         "--bytes");
  }
  if (options.bytes) return data::make_byte_tokenizer();
  if (!options.tokenizer.empty()) return data::load_tokenizer(options.tokenizer);
  if (options.vocab.empty() || options.merges.empty()) {
    fail(Exit::config, "tokenize: --vocab and --merges belong together; give both");
  }
  return data::make_bpe_tokenizer(data::Bpe::load(options.vocab, options.merges));
}

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) {
    fail(Exit::data, "tokenize: cannot write to the standard output; is the disk full?");
  }
}

std::string ids_row(const std::vector<int32_t>& ids) {
  std::string row = "{\"ids\":[";
  char digits[16];
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) row += ',';
    row.append(digits, std::to_chars(digits, digits + sizeof(digits), ids[i]).ptr);
  }
  return row + "]}\n";
}

// Calls f(row, "file:line") for every line of a JSONL file that is not blank.
template <class F>
void for_each_row(const std::string& path, F&& f) {
  const MappedFile file(path, Exit::data, MappedFile::Access::sequential);
  std::string_view rest = file.text();
  for (int64_t number = 1; !rest.empty(); ++number) {
    const size_t stop = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, stop);
    rest.remove_prefix(std::min(stop + 1, rest.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = cat(path, ":", number);
    f(parse_json(line, where), where);
  }
}

void encode_command(const Options& options, bool has_text) {
  const auto tokenizer = open_tokenizer(options);
  if (has_text == !options.jsonl.empty()) {
    fail(Exit::config, "tokenize: give either --text TEXT or --jsonl FILE");
  }
  if (has_text) return print(ids_row(tokenizer->encode(options.text, options.special)));
  for_each_row(options.jsonl, [&](const Json& row, const std::string& where) {
    const auto text = data::row_text(row, options.field, where);
    print(ids_row(tokenizer->encode(text, options.special)));
  });
}

void decode_command(const Options& options) {
  const auto tokenizer = open_tokenizer(options);
  if (options.jsonl.empty()) return print(tokenizer->decode(options.ids));
  for_each_row(options.jsonl, [&](const Json& row, const std::string& where) {
    const Json& list = json_member(row, "ids", where);
    std::vector<int32_t> ids;
    for (const Json& id : list) {
      if (!list.is_array() || !id.is_number_integer() || id.get<double>() < 0 ||
          id.get<double>() > 2147483647.0) {
        fail(Exit::data, where, ": \"ids\" must be a list of token ids, got ",
             quoted(dump_json(id)));
      }
      ids.push_back(id.get<int32_t>());
    }
    print(dump_json(Json{{"text", tokenizer->decode(ids)}}) + "\n");
  });
}

// A line that rewrites itself, on a terminal only.
void show_progress(const char* what, int64_t done, int64_t total) {
  if (isatty(STDERR_FILENO) == 0 || total <= 0) return;
  std::fprintf(stderr, "\r%s %3d%%%s", what, static_cast<int>(100 * done / total),
               done >= total ? "\n" : "");
}

void prepare_command(const Options& options) {
  const auto tokenizer = open_tokenizer(options);
  data::PrepareOptions prepare;
  prepare.text.json_field = options.field;
  prepare.progress = [](int64_t done, int64_t total) { show_progress("encoding", done, total); };
  make_folders(parent_folder(options.out), Exit::data);
  const auto begin = std::chrono::steady_clock::now();
  const data::PrepareResult result =
      data::prepare_dataset(options.inputs, *tokenizer, options.out, prepare);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  print(fmt::format("{}: {} tokens of {} document{}, {} bytes of text, {:.0f} MB/s\n", options.out,
                    result.tokens, result.documents, result.documents == 1 ? "" : "s",
                    result.text_bytes,
                    static_cast<double>(result.text_bytes) * 1e-6 / took.count()));
}

std::unique_ptr<data::Tokenizer> learn(const Options& options) {
  data::TextOptions text;
  text.json_field = options.field;
  const std::vector<std::string> documents = data::read_documents(options.inputs, text);
  if (options.kind == "char") {
    std::string corpus;
    for (const std::string& document : documents) corpus += document;
    return data::make_char_tokenizer(corpus);
  }
  data::BpeTrainer trainer;
  trainer.add(documents);
  data::BpeTrainOptions train;
  train.vocab_size = options.vocab_size;
  train.min_count = options.min_count;
  train.progress = [](int64_t done, int64_t total) { show_progress("merging", done, total); };
  return data::make_bpe_tokenizer(trainer.train(train));
}

void train_command(const Options& options) {
  const auto tokenizer = learn(options);
  tokenizer->save(options.out);
  print(cat(options.out, ": ", tokenizer->kind(), " tokenizer with ", tokenizer->vocab_size(),
            " tokens\n"));
  if (options.kind == "bpe" && tokenizer->vocab_size() < options.vocab_size) {
    print(cat("(fewer than the ", options.vocab_size, " asked for: no other pair occurs ",
              options.min_count, " times)\n"));
  }
}

void info_command(const Options& options) {
  for (const std::string& path : options.inputs) {
    const data::TokenFile file(path);
    const data::TokenLayout& layout = file.layout();
    print(cat(path, ": ", to_string(layout.format), ", ", layout.tokens, " tokens as ",
              to_string(layout.type)));
    if (layout.vocab_size > 0) print(cat(", vocabulary ", layout.vocab_size));
    if (!layout.documents.empty()) print(cat(", ", layout.documents.size(), " documents"));
    print("\n");
  }
}

void add_tokenizer_options(CLI::App& command, Options& o) {
  command.add_option("--tokenizer", o.tokenizer, "folder of a tokenizer")->type_name("FOLDER");
  command.add_option("--vocab", o.vocab, "GPT-2's encoder.json, or vocab.json")->type_name("FILE");
  command.add_option("--merges", o.merges, "GPT-2's vocab.bpe, or merges.txt")->type_name("FILE");
  command.add_flag("--bytes", o.bytes, "every byte is a token");
}

void add_field_option(CLI::App& command, Options& o) {
  command.add_option("--field", o.field, "field of a JSONL row that holds the text")
      ->capture_default_str();
}

CLI::Option* add_inputs(CLI::App& command, Options& o, const char* what) {
  return command.add_option("INPUT", o.inputs, what)->required();
}

void add_prepare(CLI::App& parent, const std::shared_ptr<Options>& o) {
  CLI::App* command = parent.add_subcommand("prepare", "Write texts to a token file for training");
  add_inputs(*command, *o, "texts: .txt, .jsonl, .gz of both; documents parted by <|endoftext|>");
  command->add_option("--out", o->out, "the token file")
      ->required()
      ->check(named())
      ->type_name("FILE");
  add_tokenizer_options(*command, *o);
  add_field_option(*command, *o);
  command->callback([o] { prepare_command(*o); });
}

void add_train_tokenizer(CLI::App& parent, const std::shared_ptr<Options>& o) {
  CLI::App* command = parent.add_subcommand("train", "Learn a vocabulary from texts");
  add_inputs(*command, *o, "texts: .txt, .jsonl, .gz of both");
  command->add_option("--out", o->out, "folder to save to")
      ->required()
      ->check(named())
      ->type_name("FOLDER");
  command->add_option("--vocab-size", o->vocab_size, "tokens, 256 bytes and <|endoftext|> included")
      ->capture_default_str();
  command->add_option("--min-count", o->min_count, "merge pairs seen at least so often")
      ->capture_default_str();
  command->add_option("--kind", o->kind, "bpe, or char: the characters of the texts")
      ->check(CLI::IsMember({"bpe", "char"}))
      ->capture_default_str();
  add_field_option(*command, *o);
  command->callback([o] { train_command(*o); });
}

void add_decode(CLI::App& parent, const std::shared_ptr<Options>& o) {
  CLI::App* command = parent.add_subcommand("decode", "Turn token ids back into text");
  command->add_option("IDS", o->ids, "token ids; the text goes to the standard output as it is");
  command->add_option("--jsonl", o->jsonl, "rows with ids; gives rows with text")
      ->type_name("FILE");
  add_tokenizer_options(*command, *o);
  command->callback([o] { decode_command(*o); });
}

void add_info(CLI::App& parent, const std::shared_ptr<Options>& o) {
  CLI::App* command = parent.add_subcommand("info", "Say what a token file holds, and check it");
  add_inputs(*command, *o, "token files: ours, nanoGPT's, llm.c's, Megatron's");
  command->callback([o] { info_command(*o); });
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("tokenize", "Turn text into tokens, and learn vocabularies");
  add_tokenizer_options(*command, *o);
  command->add_option("--jsonl", o->jsonl, "encode each row's text; gives rows {\"ids\": [...]}")
      ->type_name("FILE");
  CLI::Option* text = command->add_option("--text", o->text, "encode this text");
  add_field_option(*command, *o);
  command->add_flag("--special", o->special, "take <|endoftext|> in a text for the special token");
  add_prepare(*command, o);
  add_train_tokenizer(*command, o);
  add_decode(*command, o);
  add_info(*command, o);
  command->require_subcommand(0, 1);
  command->footer(
      "  pyramoe tokenize --vocab encoder.json --merges vocab.bpe --jsonl texts.jsonl\n"
      "  pyramoe tokenize train books.txt.gz --vocab-size 8192 --out tokenizer\n"
      "  pyramoe tokenize prepare books.txt.gz --tokenizer tokenizer --out books.tok\n"
      "  pyramoe tokenize decode --tokenizer tokenizer 464 3290");
  command->callback([o, command, text] {
    if (command->get_subcommands().empty()) encode_command(*o, text->count() > 0);
  });
}

}  // namespace pyramoe
