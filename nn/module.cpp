#include "nn/module.h"

#include "core/parallel.h"

namespace pyramoe::nn {

const dist::ProcessGroup& Build::tensor() const {
  static const dist::ProcessGroup alone;
  return mesh ? mesh->tensor() : alone;
}

Placement Build::everywhere() const {
  if (!mesh) return {};
  return {mesh->data(), mesh->world().size(), {}};
}

Placement Build::over_tensor(const Shape& global, int axis) const {
  if (!mesh) return {};
  return {mesh->data(), mesh->data().size(),
          cut_axis(global, axis, tensor().rank(), tensor().size())};
}

Var& Module::add_parameter(std::string name, Shape shape, const Build& build, Init init,
                           bool weight_decay, Placement place) {
  auto own = std::make_unique<Own>();
  own->name = std::move(name);
  own->parameter.var = Var(Tensor(std::move(shape), build.dtype, build.device), true);
  own->parameter.init = init;
  own->parameter.weight_decay = weight_decay;
  own->parameter.place = std::move(place);
  own_.push_back(std::move(own));
  return own_.back()->parameter.var;
}

Var& Module::add_expert_parameter(std::string name, Shape shape, const Build& build, Init init,
                                  bool weight_decay, Placement place) {
  Var& var =
      add_parameter(std::move(name), std::move(shape), build, init, weight_decay, std::move(place));
  own_.back()->parameter.expert = true;
  return var;
}

Var& Module::add_buffer(std::string name, Tensor value) {
  auto own = std::make_unique<Own>();
  own->name = std::move(name);
  own->parameter.var = Var(std::move(value));
  own->parameter.trainable = false;
  own->parameter.weight_decay = false;
  own_.push_back(std::move(own));
  return own_.back()->parameter.var;
}

void Module::collect(const std::string& prefix, bool with_buffers, std::vector<Parameter*>& all) {
  for (const auto& own : own_) {
    if (!own->parameter.trainable && !with_buffers) continue;
    own->parameter.name = prefix + own->name;
    all.push_back(&own->parameter);
  }
  for (const Child& child : children_) {
    child.module->collect(prefix + child.name + ".", with_buffers, all);
  }
}

std::vector<Parameter*> Module::parameters(bool with_buffers) {
  std::vector<Parameter*> all;
  collect("", with_buffers, all);
  return all;
}

void Module::initialise(uint64_t seed) {
  for (const Parameter* parameter : parameters()) nn::initialise(*parameter, seed);
}

void initialise(const Parameter& parameter, uint64_t seed) {
  const Tensor& value = parameter.var.value();
  if (value.device().type == DeviceType::meta) return;
  if (parameter.init.kind == Init::Kind::zeros) return value.zero();
  if (parameter.init.kind == Init::Kind::ones) {
    return value.copy_from(
        Tensor::full(value.shape(), value.dtype(), 1.0, kCpu).to(value.device()));
  }
  const RngKey key{seed ^ hash_name(parameter.name), RngPurpose::init, 0, 0};
  Tensor host(value.shape(), value.dtype(), kCpu);
  visit_floating(value.dtype(), [&]<class T>() {
    for_each_run(parameter.place.box, host.shape(), [&](int64_t at, int64_t first, int64_t count) {
      T* out = host.data<T>() + at;
      parallel_for(count, 1 << 14, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const double draw =
              parameter.init.std * random_normal(key, static_cast<uint64_t>(first + i));
          if constexpr (std::is_same_v<T, double>) {
            out[i] = draw;
          } else {
            out[i] = T(static_cast<float>(draw));
          }
        }
      });
    });
  });
  value.copy_from(host.to(value.device()));
}

}  // namespace pyramoe::nn
