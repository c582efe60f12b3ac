#include "dist/link_model.h"

#include <algorithm>
#include <sstream>

namespace pyramoe::dist {
namespace {

// When each of this rank's links is free again; shared by all its groups.
struct Links {
  LinkModel model;
  std::array<double, 2> free_at{};
};

// A message and the moment of its delivery, which travels ahead of it.
class Delayed : public Request {
 public:
  Delayed(std::unique_ptr<double> time, RequestPtr head, RequestPtr body)
      : time_(std::move(time)), head_(std::move(head)), body_(std::move(body)) {}
  bool done() override {
    head_done_ = head_done_ || head_->done();
    body_done_ = body_done_ || body_->done();
    return head_done_ && body_done_;
  }

 protected:
  std::unique_ptr<double> time_;

 private:
  RequestPtr head_, body_;
  bool head_done_ = false, body_done_ = false;
};

class DelayedReceive : public Delayed {
 public:
  using Delayed::Delayed;
  bool done() override { return Delayed::done() && Fabric::now() >= *time_; }
};

class ModelledChannel : public Channel {
 public:
  ModelledChannel(std::shared_ptr<Channel> inner, Fabric* fabric, std::shared_ptr<Links> links)
      : inner_(std::move(inner)), fabric_(fabric), links_(std::move(links)) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  const std::vector<int>& members() const override { return inner_->members(); }
  std::unique_ptr<Channel> split(int color, int key) const override {
    return std::make_unique<ModelledChannel>(inner_->split(color, key), fabric_, links_);
  }
  RequestPtr send(const void* data, int64_t bytes, int to, int tag) const override {
    const int other = members()[static_cast<size_t>(to)];
    const auto link = static_cast<size_t>(fabric_->link(fabric_->rank(), other));
    const LinkSpeed& speed = links_->model.speed[link];
    double& free_at = links_->free_at[link];
    free_at = std::max(free_at, Fabric::now()) + speed.alpha +
              (speed.beta > 0 ? static_cast<double>(bytes) / speed.beta : 0);
    auto time = std::make_unique<double>(free_at);
    RequestPtr head = inner_->send(time.get(), sizeof(double), to, tag);
    return std::make_unique<Delayed>(std::move(time), std::move(head),
                                     inner_->send(data, bytes, to, tag));
  }
  RequestPtr receive(void* data, int64_t bytes, int from, int tag) const override {
    auto time = std::make_unique<double>(0);
    RequestPtr head = inner_->receive(time.get(), sizeof(double), from, tag);
    return std::make_unique<DelayedReceive>(std::move(time), std::move(head),
                                            inner_->receive(data, bytes, from, tag));
  }

 private:
  std::shared_ptr<Channel> inner_;
  Fabric* fabric_;
  std::shared_ptr<Links> links_;
};

}  // namespace

LinkModel parse_link_model(const std::string& text) {
  std::array<double, 4> numbers{};
  std::istringstream in(text);
  char comma = ',';
  bool good = true;
  for (size_t i = 0; i < 4; ++i) {
    if (i > 0) good = good && in >> comma && comma == ',';
    good = good && in >> numbers[i] && numbers[i] >= 0;
  }
  if (!good || in >> comma) {
    fail(Exit::config, "parallel.link_model = \"", text, "\": expected four numbers of 0 or more, ",
         "\"inside alpha us, inside GB/s, between alpha us, between GB/s\", e.g. \"2,100,20,10\"");
  }
  LinkModel model;
  for (size_t i = 0; i < 2; ++i) {
    model.speed[i] = {numbers[2 * i] * 1e-6, numbers[2 * i + 1] * 1e9};
  }
  return model;
}

std::shared_ptr<Channel> model_links(const ProcessGroup& group, const LinkModel& model) {
  return std::make_shared<ModelledChannel>(group.channel(), group.fabric(),
                                           std::make_shared<Links>(Links{model, {}}));
}

}  // namespace pyramoe::dist
