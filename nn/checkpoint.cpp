#include "nn/checkpoint.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "core/crc32c.h"
#include "core/file.h"

namespace pyramoe::nn {
namespace {

constexpr const char* kManifest = "MANIFEST";
constexpr const char* kFirstLine = "pyramoe checkpoint 1";
constexpr Exit kExit = Exit::checkpoint;

std::string folder_of(const std::string& run_dir) { return run_dir + "/checkpoints"; }

std::string step_name(int64_t step) {
  char text[32];
  std::snprintf(text, sizeof text, "step_%08lld", static_cast<long long>(step));
  return text;
}

int64_t step_of(const std::string& name) { return std::strtoll(name.c_str() + 5, nullptr, 10); }

std::string hex(uint32_t crc) {
  char text[16];
  std::snprintf(text, sizeof text, "%08x", crc);
  return text;
}

// Committed checkpoint folders of a run, newest first.
std::vector<std::string> committed(const std::string& run_dir) {
  std::vector<std::string> names;
  if (!is_folder(folder_of(run_dir))) return names;
  for (const std::string& name : list_folder(folder_of(run_dir), kExit)) {
    if (name.rfind("step_", 0) == 0 && name.size() >= 13 && !is_temp_name(name)) {
      names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end(), [](const std::string& a, const std::string& b) {
    return a.size() != b.size() ? a.size() > b.size() : a > b;
  });
  return names;
}

// ---- The manifest: one line a file with its length and checksum, and a line that checks the
// lines before it. Plain text, so that a person can check a checkpoint with two commands.

class ManifestWriter {
 public:
  explicit ManifestWriter(int64_t step) : text_(cat(kFirstLine, "\nstep ", step, "\n")) {}
  void add(const std::string& name, int64_t bytes, uint32_t crc) {
    text_ += cat("file ", name, " ", bytes, " crc32c ", hex(crc), "\n");
  }
  std::string finish() const {
    return text_ + "end crc32c " + hex(crc32c(text_.data(), text_.size())) + "\n";
  }

 private:
  std::string text_;
};

struct ManifestFile {
  std::string name;
  int64_t bytes = 0;
  std::string crc;
};

struct Manifest {
  int64_t step = 0;
  std::vector<ManifestFile> files;
};

[[noreturn]] void damaged(const std::string& path, const std::string& what) {
  fail(kExit, path, ": ", what,
       "; the checkpoint is damaged: use another one of the run, or copy it again");
}

Manifest read_manifest(const std::string& path) {
  const std::string text = read_file(path, 1 << 20, kExit);
  const size_t end = text.rfind("end crc32c ");
  if (end == std::string::npos || text.size() != end + 11 + 8 + 1 || text.back() != '\n') {
    damaged(path, "does not end with its own checksum");
  }
  if (text.substr(end + 11, 8) != hex(crc32c(text.data(), end))) {
    damaged(path, "does not match its own checksum");
  }
  std::istringstream lines(text.substr(0, end));
  std::string line;
  Manifest manifest;
  if (!std::getline(lines, line) || line != kFirstLine) {
    fail(kExit, path, ": first line is \"", line, "\", this program reads \"", kFirstLine,
         "\"; it was written by another version");
  }
  std::string word, crc_word;
  if (!(lines >> word >> manifest.step) || word != "step") damaged(path, "has no step");
  ManifestFile file;
  while (lines >> word >> file.name >> file.bytes >> crc_word >> file.crc) {
    if (word != "file" || crc_word != "crc32c") damaged(path, "has a line that is not a file");
    if (file.name.find('/') != std::string::npos) damaged(path, "names a file in another folder");
    manifest.files.push_back(file);
  }
  return manifest;
}

void verify(const std::string& folder, const ManifestFile& file) {
  const std::string path = folder + "/" + file.name;
  const MappedFile mapped(path, kExit, MappedFile::Access::sequential);
  if (mapped.size() != file.bytes) {
    damaged(path, cat("has ", mapped.size(), " bytes, the manifest says ", file.bytes));
  }
  const uint32_t crc = crc32c(mapped.data(), static_cast<size_t>(mapped.size()));
  if (hex(crc) != file.crc) {
    damaged(path, cat("has checksum ", hex(crc), ", the manifest says ", file.crc));
  }
}

// ---- Tensors

SavedFile write_tensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                        const std::string& what) {
  std::vector<std::pair<std::string, Tensor>> items;
  for (const NamedTensor& tensor : tensors) items.emplace_back(tensor.name, tensor.value);
  return write_safetensors(path, items, {{"format", "pyramoe"}, {"content", what}}, kExit);
}

// The stored name most like a missing one, for the error message.
std::string nearest(const std::string& name, const std::set<std::string>& stored) {
  std::string best;
  size_t most = 0;
  for (const std::string& other : stored) {
    size_t head = 0, tail = 0;
    const size_t limit = std::min(name.size(), other.size());
    while (head < limit && name[head] == other[head]) ++head;
    while (tail < limit - head && name[name.size() - 1 - tail] == other[other.size() - 1 - tail]) {
      ++tail;
    }
    if (head + tail > most) {
      most = head + tail;
      best = other;
    }
  }
  return best;
}

}  // namespace

std::string save_checkpoint(const std::string& run_dir, const CheckpointContent& content) {
  const std::string final_path = folder_of(run_dir) + "/" + step_name(content.step);
  make_folders(folder_of(run_dir), kExit);
  std::string temp = temp_name(final_path);
  while (path_exists(temp)) temp = temp_name(final_path);
  make_folders(temp, kExit);
  try {
    ManifestWriter manifest(content.step);
    const auto add_text = [&](const std::string& name, const std::string& text) {
      write_file(temp + "/" + name, text, kExit);
      manifest.add(name, static_cast<int64_t>(text.size()), crc32c(text.data(), text.size()));
    };
    const auto add_tensors = [&](const std::string& name, const std::vector<NamedTensor>& tensors,
                                 const std::string& what) {
      const SavedFile saved = write_tensors(temp + "/" + name, tensors, what);
      manifest.add(name, saved.bytes, saved.crc);
    };
    int64_t bytes = 0;
    for (const NamedTensor& t : content.model) bytes += t.value.bytes();
    for (const NamedTensor& t : content.optimizer) bytes += t.value.bytes();
    check_free_space(temp, bytes + (1 << 20), kExit);
    add_tensors("model.safetensors", content.model, "model");
    if (!content.optimizer.empty()) {
      add_tensors("optimizer.safetensors", content.optimizer, "optimizer");
    }
    add_text("config.toml", content.config);
    add_text("state.json", content.state + "\n");
    write_file(temp + "/" + kManifest, manifest.finish(), kExit);
    replace_folder(temp, final_path, kExit);
  } catch (...) {
    try {
      remove_tree(temp, kExit);
    } catch (const Error&) {
      // The first error is the one to report.
    }
    throw;
  }
  return final_path;
}

void prune_checkpoints(const std::string& run_dir, int64_t keep, int64_t step) {
  std::vector<std::string> names = committed(run_dir);
  std::erase_if(names, [&](const std::string& name) { return step_of(name) > step; });
  for (size_t i = static_cast<size_t>(std::max<int64_t>(keep, 1)); i < names.size(); ++i) {
    remove_tree(folder_of(run_dir) + "/" + names[i], kExit);
  }
  if (is_folder(folder_of(run_dir))) remove_temp_files(folder_of(run_dir), kExit);
}

Checkpoint Checkpoint::open(const std::string& folder) {
  if (!is_folder(folder)) fail(kExit, folder, ": no such checkpoint folder");
  Checkpoint checkpoint;
  checkpoint.folder_ = folder;
  const Manifest manifest = read_manifest(folder + "/" + kManifest);
  checkpoint.step_ = manifest.step;
  std::set<std::string> names;
  for (const ManifestFile& file : manifest.files) {
    verify(folder, file);
    names.insert(file.name);
  }
  for (const char* needed : {"model.safetensors", "config.toml", "state.json"}) {
    if (!names.count(needed)) damaged(folder, cat("the manifest does not list ", needed));
  }
  checkpoint.config_ = read_file(folder + "/config.toml", 1 << 20, kExit);
  checkpoint.state_ = read_file(folder + "/state.json", 1 << 20, kExit);
  checkpoint.model_ = std::make_shared<SafetensorsReader>(folder + "/model.safetensors", kExit);
  if (names.count("optimizer.safetensors")) {
    checkpoint.optimizer_ =
        std::make_shared<SafetensorsReader>(folder + "/optimizer.safetensors", kExit);
  }
  return checkpoint;
}

bool Checkpoint::exists(const std::string& run_dir) { return !committed(run_dir).empty(); }

Checkpoint Checkpoint::newest(const std::string& run_dir) {
  const std::vector<std::string> names = committed(run_dir);
  for (const std::string& name : names) {
    try {
      return open(folder_of(run_dir) + "/" + name);
    } catch (const Error& error) {
      if (error.code() != kExit) throw;  // no memory to look at it: it may well be intact
      std::fprintf(stderr, "skipped a checkpoint: %s\n", error.what());
    }
  }
  if (names.empty()) {
    fail(kExit, run_dir, ": no checkpoint under ", folder_of(run_dir),
         "; give a run folder made by `pyramoe train` or `pyramoe import`");
  }
  fail(kExit, run_dir, ": none of its ", names.size(), " checkpoints is intact (see above); copy ",
       "one again, or move ", folder_of(run_dir), " away to start from step 0");
}

Checkpoint Checkpoint::find(const std::string& path) {
  if (path_exists(path + "/" + kManifest)) return open(path);
  if (!is_folder(path)) {
    fail(kExit, path, ": no such run; give a run folder or one of its checkpoint folders");
  }
  return newest(path);
}

void Checkpoint::load_model(Module& module) const {
  std::set<std::string> stored;
  for (const SafetensorsEntry& entry : model_->entries()) stored.insert(entry.name);
  std::string wrong;
  int64_t count = 0;
  const auto complain = [&](const std::string& line) {
    if (++count <= 8) wrong += "\n  " + line;
  };
  const std::vector<Parameter*> parameters = module.parameters(true);
  for (const Parameter* parameter : parameters) {
    const SafetensorsEntry* entry = model_->find(parameter->name);
    if (!entry) {
      complain(
          cat("missing ", parameter->name, " (nearest: ", nearest(parameter->name, stored), ")"));
      continue;
    }
    stored.erase(entry->name);
    const Shape& wanted = global_shape(parameter->place.box, parameter->var.shape());
    if (entry->shape != wanted) {
      complain(cat(entry->name, " is ", to_string(entry->shape), ", the model needs ",
                   to_string(wanted)));
    } else if (!entry->type || !is_floating(*entry->type)) {
      complain(cat(entry->name, " holds ", entry->dtype, ", expected a floating type"));
    }
  }
  for (const std::string& name : stored) complain("unexpected " + name);
  if (count > 0) {
    fail(kExit, model_->path(), " does not fit the model of its config:", wrong,
         count > 8 ? cat("\n  and ", count - 8, " more") : "");
  }
  for (const Parameter* parameter : parameters) {
    const Tensor& value = parameter->var.value();
    const Tensor stored_value = model_->tensor(parameter->name).to(value.dtype());
    value.copy_from(take_part(stored_value, parameter->place.box, value.shape()));
  }
}

bool Checkpoint::load_optimizer(const std::string& name, const Tensor& into, const Box& box) const {
  if (!optimizer_ || !optimizer_->find(name)) return false;
  const Tensor value = optimizer_->tensor(name);
  const Shape& wanted = global_shape(box, into.shape());
  if (value.shape() != wanted) {
    fail(kExit, optimizer_->path(), ": ", name, " is ", to_string(value.shape()), ", expected ",
         to_string(wanted));
  }
  into.copy_from(take_part(value.to(into.dtype()), box, into.shape()));
  return true;
}

std::vector<std::string> Checkpoint::model_names() const {
  std::vector<std::string> names;
  for (const SafetensorsEntry& entry : model_->entries()) names.push_back(entry.name);
  return names;
}

}  // namespace pyramoe::nn
