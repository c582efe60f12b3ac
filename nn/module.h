// A tree of named parameters. A layer declares its parameters and children in its constructor;
// names become dotted paths, which checkpoints, dumps and initial values are keyed by.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/rng.h"
#include "dist/mesh.h"
#include "nn/parameter.h"

namespace pyramoe::nn {

// Where and as what a module's parameters are made.
struct Build {
  DType dtype = DType::f32;
  Device device = kCpu;
  bool bias = true;                  // of linear layers and experts; norms always have theirs
  const dist::Mesh* mesh = nullptr;  // the ranks that share the model; null = this one alone

  const dist::ProcessGroup& tensor() const;
  // Of a parameter that every rank holds whole, and of a part cut over the tensor ranks.
  Placement everywhere() const;
  Placement over_tensor(const Shape& global, int axis) const;
};

class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  // Parameters in declaration order, depth first, with full names. Buffers are included where
  // asked for.
  std::vector<Parameter*> parameters(bool with_buffers = false);
  // Fills every parameter with its initial value.
  void initialise(uint64_t seed);

 protected:
  // Vectors (rank 1 logical parameters such as biases and norms) pass weight_decay = false.
  //   shape  of the part that this rank holds
  Var& add_parameter(std::string name, Shape shape, const Build& build, Init init,
                     bool weight_decay, Placement place);
  Var& add_parameter(std::string name, Shape shape, const Build& build, Init init,
                     bool weight_decay = true) {
    return add_parameter(std::move(name), std::move(shape), build, init, weight_decay,
                         build.everywhere());
  }
  // Like add_parameter, with axis 0 counting experts.
  Var& add_expert_parameter(std::string name, Shape shape, const Build& build, Init init,
                            bool weight_decay, Placement place);
  // Saved and exported, never optimised (the balancing bias of a gate). f32 at least.
  Var& add_buffer(std::string name, Tensor value);
  template <class M>
  M& add_module(std::string name, std::unique_ptr<M> child) {
    M& reference = *child;
    children_.push_back({std::move(name), std::move(child)});
    return reference;
  }

 private:
  struct Child {
    std::string name;
    std::unique_ptr<Module> module;
  };
  struct Own {
    std::string name;  // local
    Parameter parameter;
  };
  void collect(const std::string& prefix, bool with_buffers, std::vector<Parameter*>& all);

  // unique_ptr elements: references handed out stay valid as the vectors grow.
  std::vector<std::unique_ptr<Own>> own_;
  std::vector<Child> children_;
};

// Writes the initial value of a parameter into its tensor.
void initialise(const Parameter& parameter, uint64_t seed);

}  // namespace pyramoe::nn
