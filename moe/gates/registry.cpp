// The names that moe.gate knows. A new gate is a line here.
#include "moe/gate.h"

namespace pyramoe::moe {
namespace {

struct Entry {
  const char* name;
  std::unique_ptr<Gate> (*make)();
};

constexpr Entry kGates[] = {
    {"softmax", make_softmax_gate},
    {"sigmoid_bias", make_sigmoid_bias_gate},
};

}  // namespace

std::unique_ptr<Gate> make_gate(const std::string& name) {
  std::string known;
  for (const Entry& gate : kGates) {
    if (name == gate.name) return gate.make();
    known += cat(known.empty() ? "" : ", ", gate.name);
  }
  fail(Exit::config, "moe.gate = \"", name, "\" is not a gate; expected one of ", known);
}

std::vector<std::string> gate_names() {
  std::vector<std::string> names;
  for (const Entry& gate : kGates) names.emplace_back(gate.name);
  return names;
}

}  // namespace pyramoe::moe
