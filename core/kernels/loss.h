// Losses over a vocabulary: softmax fused with cross-entropy, and distillation.
#pragma once

#include "core/kernel.h"

namespace pyramoe::kernels {

// loss[n] = lse[n] - logits[n, target[n]], in nats; a target < 0 is ignored (loss 0).
//   logits (N, V), target (N) i32, loss and lse (N) f32 or f64
PM_KERNEL(cross_entropy_forward,
          (const Tensor& logits, const Tensor& target, Tensor& loss, Tensor& lse))
// dlogits = dloss[0] / N_total * (softmax(logits) - onehot(target)); N_total = `tokens`.
// dlogits may be the memory of logits.
PM_KERNEL(cross_entropy_backward, (const Tensor& dloss, const Tensor& logits, const Tensor& target,
                                   const Tensor& lse, int64_t tokens, Tensor& dlogits))
// Both at once, for an objective that is the mean over `tokens`: loss[n] as above, and the logits
// become (softmax(logits) - onehot(target)) / tokens. What comes after has to scale by dloss.
PM_KERNEL(cross_entropy_in_place,
          (const Tensor& target, int64_t tokens, Tensor& logits, Tensor& loss))
// loss[n] = T^2 KL(softmax(teacher / T) || softmax(student / T)) of row n; the log-sum-exps of both
// scaled rows are kept.   student, teacher (N, V); loss, student_lse, teacher_lse (N)
// Source: DeepSpeed-MoE, section 4.2 (Mixture-of-Students); Hinton et al., 2015.
PM_KERNEL(distill_forward, (const Tensor& student, const Tensor& teacher, double temperature,
                            Tensor& loss, Tensor& student_lse, Tensor& teacher_lse))
// dstudent = dloss[0] / N * T * (softmax(student / T) - softmax(teacher / T)).
PM_KERNEL(distill_backward,
          (const Tensor& dloss, const Tensor& student, const Tensor& teacher, double temperature,
           const Tensor& student_lse, const Tensor& teacher_lse, Tensor& dstudent))
// Both losses and their gradient at once, for the objective weight[0] CE + weight[1] KD of means
// over `tokens`: loss[n] and distill[n] as above, unweighted, and the student's logits become the
// objective's gradient (a row without a target has that of KD alone). What comes after has to scale
// it.   weight (2) f64, read on the device; target (N) i32; teacher, logits (N, V)
PM_KERNEL(distill_in_place,
          (const Tensor& target, const Tensor& teacher, double temperature, const Tensor& weight,
           int64_t tokens, Tensor& logits, Tensor& loss, Tensor& distill))

}  // namespace pyramoe::kernels
