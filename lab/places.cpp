#include "lab/places.h"

#include <algorithm>
#include <cstdlib>

#include "core/cuda_device.h"
#include "core/file.h"
#include "core/parallel.h"

namespace pyramoe::lab {
namespace {

// A run that takes long and is small saves on its way; saving a large one would cost more than it
// could lose.
constexpr double kLongRun = 2e12;  // FLOPs, about half a minute of a core
constexpr int64_t kSmallState = int64_t{256} << 20;
constexpr int64_t kSavesOnTheWay = 4;

std::vector<std::string> visible_gpus() {
  std::vector<std::string> gpus;
  const char* named = std::getenv("CUDA_VISIBLE_DEVICES");
  if (!named) {
    for (int i = 0; i < cuda_device::count(); ++i) gpus.push_back(std::to_string(i));
    return gpus;
  }
  const std::string text = named;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    if (end > begin) gpus.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return gpus;
}

}  // namespace

Places::Places(const std::string& device, int jobs) : cores_(num_threads()) {
  if (device == "cuda") {
    if (cuda_device::count() == 0) fail(Exit::config, "--device cuda: ", cuda_device::why_none());
    gpus_ = visible_gpus();
  }
  count_ = jobs > 0 ? jobs : gpus_.empty() ? cores_ : static_cast<int>(gpus_.size());
}

std::vector<std::pair<std::string, std::string>> Places::environment(int place) const {
  std::vector<std::pair<std::string, std::string>> variables = {
      {"PYRAMOE_THREADS", std::to_string(std::max(1, cores_ / count_))}};
  if (!gpus_.empty()) {
    const size_t gpu = static_cast<size_t>(place) % gpus_.size();
    variables.emplace_back("CUDA_VISIBLE_DEVICES", gpus_[gpu]);
  }
  return variables;
}

std::string Places::words() const {
  const int threads = std::max(1, cores_ / count_);
  return cat(count_, " at a time, ", threads, threads == 1 ? " thread" : " threads", " each",
             gpus_.empty() ? "" : cat(", on ", gpus_.size(), gpus_.size() == 1 ? " GPU" : " GPUs"));
}

std::string write_request(const PlannedRun& run, bool weights) {
  train::RunConfig config = run.config;
  config.dir = run.folder;
  config.train.keep_last = 1;
  const bool on_the_way = run.flops > kLongRun && run.cost.bytes_training <= kSmallState;
  config.train.save_every = on_the_way ? config.train.steps / kSavesOnTheWay + 1 : weights ? 0 : -1;
  const std::string path = run.folder + "/request.toml";
  write_file(path, to_toml(config), Exit::data);
  return path;
}

}  // namespace pyramoe::lab
