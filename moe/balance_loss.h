// The losses that keep routing healthy, computed in training only.
//
// The load-balancing loss pulls probability away from crowded experts: per routing group
// E * sum_e mean(p_e) * (e's share of the choices, before drops), then the mean over groups. It is
// 1 when routing is uniform. The z-loss keeps logits small.   Source: GShard; Switch; ST-MoE.
#pragma once

#include "moe/routing.h"

namespace pyramoe::moe {

struct BalanceOptions {
  bool all_choices = false;  // moe.balance_loss = "all"
  bool z_loss = false;       // moe.z_coef > 0
};

// Writes routing.balance_loss and routing.z_loss.
//   logits (N, E); rows  of one routing group
void add_balance_losses(const BalanceOptions& options, const Var& logits, const Choice& choice,
                        int64_t rows, Routing& routing);

}  // namespace pyramoe::moe
