#include "moe/student.h"

#include <map>

namespace pyramoe::moe {

ModelConfig student_config(const ModelConfig& teacher, int64_t layers) {
  if (layers < 1 || layers > teacher.layers) {
    fail(Exit::config, "distill.student_layers = ", layers, ": expected 1 to the teacher's ",
         teacher.layers);
  }
  const std::vector<int64_t> all = expand_experts(teacher.experts, teacher.layers);
  std::vector<int64_t> counts;  // of the teacher's layers of experts
  for (const int64_t experts : all) {
    if (experts > 0) counts.push_back(experts);
  }
  int64_t needed = 0;
  for (int64_t i = 0; i < layers; ++i) needed += all[static_cast<size_t>(i)] > 0 ? 1 : 0;
  size_t next = counts.size() - static_cast<size_t>(needed);
  ModelConfig student = teacher;
  student.layers = layers;
  student.experts.clear();
  for (int64_t i = 0; i < layers; ++i) {
    const int64_t experts = all[static_cast<size_t>(i)] > 0 ? counts[next++] : 0;
    student.experts += (i ? " " : "") + std::to_string(experts);
  }
  return student;
}

std::vector<int64_t> match_layers(const std::vector<LayerPlan>& student,
                                  const std::vector<LayerPlan>& teacher) {
  using Key = std::pair<FfnKind, int64_t>;
  std::map<Key, std::vector<int64_t>> left;  // teacher layers not yet taken, in order
  for (size_t i = 0; i < teacher.size(); ++i) {
    left[{teacher[i].kind, teacher[i].experts}].push_back(static_cast<int64_t>(i));
  }
  std::vector<int64_t> from(student.size(), -1);
  for (size_t i = student.size(); i-- > 0;) {
    std::vector<int64_t>& same = left[{student[i].kind, student[i].experts}];
    if (same.empty()) continue;
    from[i] = same.back();
    same.pop_back();
  }
  return from;
}

std::vector<std::string> copy_teacher_layers(nn::Gpt& student,
                                             const std::vector<LayerPlan>& student_plan,
                                             nn::Gpt& teacher,
                                             const std::vector<LayerPlan>& teacher_plan) {
  std::map<std::string, const nn::Parameter*> given;
  for (const nn::Parameter* p : teacher.parameters(true)) given[p->name] = p;
  const std::vector<int64_t> from = match_layers(student_plan, teacher_plan);
  for (const nn::Parameter* p : student.parameters(true)) {
    std::string source = p->name;
    if (source.rfind("blocks.", 0) == 0) {
      const size_t dot = source.find('.', 7);
      const int64_t layer = from[std::stoul(source.substr(7, dot - 7))];
      if (layer < 0) continue;
      source = cat("blocks.", layer, source.substr(dot));
    }
    const auto found = given.find(source);
    if (found == given.end() || found->second->var.shape() != p->var.shape()) {
      fail(Exit::config, "distill.init = \"teacher\": the student's ", p->name, " ",
           to_string(p->var.shape()), " has no equal in the teacher",
           "; use equal model.dim, heads, vocab and hidden sizes, or distill.init = \"random\"");
    }
    const Tensor& value = p->var.value();
    value.copy_from(found->second->var.value().to(value.dtype()));
  }
  std::vector<std::string> lines;
  for (size_t i = 0; i < from.size(); ++i) {
    const LayerPlan& plan = student_plan[i];
    lines.push_back(cat("student layer ", i, " (", kind_name(plan.kind),
                        plan.experts ? cat(", ", plan.experts, " experts") : "", ") <- ",
                        from[i] < 0 ? "random" : cat("teacher layer ", from[i])));
  }
  return lines;
}

}  // namespace pyramoe::moe
