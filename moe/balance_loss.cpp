#include "moe/balance_loss.h"

#include "autograd/ops.h"

namespace pyramoe::moe {

void add_balance_losses(const BalanceOptions& options, const Var& logits, const Choice& choice,
                        int64_t rows, Routing& routing) {
  routing.balance_loss =
      ops::balance_loss(choice.probability, choice.expert, rows, options.all_choices);
  if (options.z_loss) routing.z_loss = ops::z_loss(logits);
}

}  // namespace pyramoe::moe
