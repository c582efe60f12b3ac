// Power loss: what was written but not flushed may be gone. A model of such a disk watches saves
// and objects to every step after which a checkpoint could be lost or half there.
#include <gtest/gtest.h>

#include <set>

#include "core/file.h"
#include "core/file_ops.h"
#include "nn/checkpoint.h"
#include "tests/cli/support.h"

namespace pyramoe {
namespace {

class UnsafeDisk {
 public:
  UnsafeDisk() {
    observe_operations([this](const char* verb, const std::string& path, const std::string& to) {
      see(verb, path, to);
    });
  }
  ~UnsafeDisk() { observe_operations({}); }
  std::vector<std::string> objections;
  int64_t flushes = 0, renames = 0;
  bool settled() const { return unsettled_.empty(); }

 private:
  static bool inside(const std::string& path, const std::string& folder) {
    return path == folder || path.starts_with(folder + "/");
  }

  void see(const std::string& verb, const std::string& path, const std::string& to) {
    if (verb == "open" || verb == "mkdir") dirty_.insert(parent_folder(path));
    if (verb == "mkdir") dirty_.insert(path);
    if (verb == "mkdir" && !is_temp_name(name_of(path))) unsettled_.insert(path);
    if (verb == "write" || verb == "truncate") dirty_.insert(path);
    if (verb == "sync") {
      ++flushes;
      dirty_.erase(path);
      std::erase_if(unsettled_,
                    [&](const std::string& name) { return parent_folder(name) == path; });
    }
    if (verb == "unlink") before_removal(path);
    if (verb == "rename" || verb == "exchange") move(verb, path, to);
  }

  // A name is given: all that it names must be on the disk, and so must be the folder that shows it
  // before anything else is taken away.
  void move(const std::string& verb, const std::string& from, const std::string& to) {
    ++renames;
    const bool gives_name = is_temp_name(name_of(from));
    if (!gives_name) before_removal(from);
    for (const std::string& path : dirty_) {
      if (gives_name && inside(path, from))
        object(to + " gets its name while " + path + " is not flushed");
    }
    if (gives_name) unsettled_.insert(to);
    if (verb == "exchange") precious_.insert(from);  // the old content, under the new one's name
    if (!gives_name) precious_.insert(to);
  }

  void before_removal(const std::string& path) {
    const bool content = !is_temp_name(name_of(path)) && path.find(".tmp-") == std::string::npos;
    bool old = content;
    for (const std::string& name : precious_) old |= inside(path, name);
    if (old && !unsettled_.empty()) {
      object(path + " is removed before the name " + *unsettled_.begin() + " is flushed");
    }
  }

  static std::string name_of(const std::string& path) { return path.substr(path.rfind('/') + 1); }
  void object(const std::string& text) { objections.push_back(text); }

  std::set<std::string> dirty_;      // files and folders with changes in memory alone
  std::set<std::string> unsettled_;  // names given, in folders not flushed since
  std::set<std::string> precious_;   // what was a checkpoint until now
};

nn::CheckpointContent content(int64_t step) {
  nn::CheckpointContent all;
  all.step = step;
  all.config = "model.layers = 1\n";
  all.model = {{"w", Tensor::full({64}, DType::f32, 1.0)}};
  all.optimizer = {{"m.w", Tensor::full({64}, DType::f32, 2.0)}};
  return all;
}

TEST(PowerLoss, NothingIsNamedBeforeItIsFlushedNorRemovedBeforeTheNameIs) {
  const test::Scratch scratch;
  const std::string dir = scratch / "run";
  UnsafeDisk disk;
  for (const int64_t step : {1, 2, 2, 3, 3, 4}) {
    nn::save_checkpoint(dir, content(step));
    EXPECT_TRUE(disk.settled()) << "step " << step << " is saved, but its name may be lost";
    nn::prune_checkpoints(dir, 1, step);
    EXPECT_EQ(nn::Checkpoint::newest(dir).step(), step);
  }
  for (const std::string& text : disk.objections) ADD_FAILURE() << text;
  EXPECT_GE(disk.flushes, 6 * 12);
  EXPECT_GE(disk.renames, 6 * 6);
}

}  // namespace
}  // namespace pyramoe
