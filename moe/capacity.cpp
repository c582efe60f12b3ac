#include "moe/capacity.h"

#include <algorithm>
#include <cmath>

namespace pyramoe::moe {

int64_t expert_capacity(int64_t tokens, int64_t experts, int64_t top_k, double factor,
                        int64_t least) {
  PM_CHECK(factor > 0, "expert_capacity: factor ", factor, ", expected more than 0");
  const double share = static_cast<double>(tokens) / static_cast<double>(experts) * factor *
                       static_cast<double>(top_k);
  // 100 tokens, 10 experts, factor 1.1: 11, although the product is 11.000000000000002.
  const double whole = std::ceil(share * (1 - 1e-12));
  if (whole >= static_cast<double>(tokens)) return std::max<int64_t>(tokens, 1);
  return std::max<int64_t>(1, std::min(tokens, std::max(static_cast<int64_t>(whole), least)));
}

kernels::DropBy parse_drop_by(const std::string& name) {
  if (name == "position") return kernels::DropBy::position;
  if (name == "probability") return kernels::DropBy::probability;
  if (name == "random") return kernels::DropBy::random;
  fail(Exit::config, "moe.drop_by = \"", name, "\": expected position, probability or random");
}

int64_t group_rows(int64_t group, const nn::Context& context) {
  if (context.batch % group == 0) return group * context.length;
  int64_t below = group, above = group;
  while (context.batch % below != 0) --below;
  while (above < context.batch && context.batch % above != 0) ++above;
  fail(Exit::config, "moe.group = ", group, " does not divide the ", context.batch,
       " sequences of a micro-batch; a routing group must lie in one. The nearest that fit: ",
       below, " or ", std::min(above, context.batch), ", or change train.micro_batch");
}

}  // namespace pyramoe::moe
