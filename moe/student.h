// Mixture-of-Students: a shallower model cut from a teacher's plan, and where its first weights
// come from (DeepSpeed-MoE, section 4.2).
#pragma once

#include <string>
#include <vector>

#include "moe/layer_plan.h"
#include "nn/gpt.h"

namespace pyramoe::moe {

// The teacher's settings with `layers` blocks. The places of the experts follow the teacher's
// first `layers` blocks; their counts are the last ones of the teacher, so that a pyramid keeps
// its top: (0 32)*10 (0 64)*2 cut to 21 layers is (0 32)*8 (0 64)*2 0.
// Throws Error(config) unless 1 <= layers <= teacher.layers.
ModelConfig student_config(const ModelConfig& teacher, int64_t layers);

// For each student layer the teacher layer that its weights come from, or -1 for none. Only layers
// of the same kind and expert count match, in order, the last ones aligned to the last.
std::vector<int64_t> match_layers(const std::vector<LayerPlan>& student,
                                  const std::vector<LayerPlan>& teacher);

// Copies the matched layers, the embeddings and the final norm; the rest keeps its values.
// Returns one printable line per student layer.
std::vector<std::string> copy_teacher_layers(nn::Gpt& student,
                                             const std::vector<LayerPlan>& student_plan,
                                             nn::Gpt& teacher,
                                             const std::vector<LayerPlan>& teacher_plan);

}  // namespace pyramoe::moe
