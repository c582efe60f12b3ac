// Who is dropped: how many rows an expert takes from a routing group, and which choices keep one.
//
// A routing group is moe.group consecutive sequences of the global batch, never "the tokens of this
// rank", so what is dropped does not depend on ranks or micro-batches.
#pragma once

#include "core/kernels/moe.h"
#include "nn/context.h"

namespace pyramoe::moe {

// Most rows an expert takes from a group of `tokens`: the even share times the factor, at least
// `least`, at most every token. A share that is whole but for rounding is not rounded up.
//   factor  > 0
// Source: GShard, section 2.2; DeepSpeed-MoE.
int64_t expert_capacity(int64_t tokens, int64_t experts, int64_t top_k, double factor,
                        int64_t least);

kernels::DropBy parse_drop_by(const std::string& name);

// Rows of one routing group in this batch.
// Throws Error(config) when groups do not divide the batch, naming sizes that do.
int64_t group_rows(int64_t group, const nn::Context& context);

}  // namespace pyramoe::moe
