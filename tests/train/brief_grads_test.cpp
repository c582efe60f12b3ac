// Gradients that live from backward to the update only (train/flat_buffers.h): they hold no memory
// while the loss is found, and weights, moments and norm are those of gradients in one buffer.
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/ops.h"
#include "moe/build_model.h"
#include "tests/train/support.h"

namespace pyramoe {
namespace {

// A model under three updates by hand.
struct Rig {
  train::RunConfig config = test::small_config("");
  std::unique_ptr<nn::Gpt> model;
  std::unique_ptr<train::FlatBuffers> buffers;
  std::unique_ptr<train::Optimizer> optimizer;
  std::vector<double> norms;
  Tensor tokens = Tensor::from(std::vector<int32_t>{1, 5, 2, 7, 3, 3, 60, 0}, {2, 4});

  Rig(const char* kind, DType dtype, bool narrow, int64_t piece_bytes) {
    config.train.optimizer = kind;
    config.train.momentum = 0.9;
    config.model.dropout = 0;
    model = moe::build_model(config.model, {dtype, kCpu}, false);
    model->initialise(7);
    buffers = std::make_unique<train::FlatBuffers>(*model, narrow, nullptr, piece_bytes);
    optimizer = train::make_optimizer(*buffers, config.train);
  }

  Var loss() const {
    nn::Context context;
    const nn::GptOut out = model->forward(tokens, context);
    return ops::cross_entropy(out.logits, tokens.reshape({8}));
  }

  void step(int number) {
    buffers->drop_grads();
    buffers->reset_grads();
    const Var total = loss();
    backward(total, Tensor::full({1}, total.dtype(), 1));
    buffers->finish_grads();
    const Tensor squares = Tensor::zeros({buffers->sums_of_squares()}, DType::f64);
    buffers->sum_squares(squares);
    double sum = 0;
    for (const double x : squares.to_vector()) sum += x;
    norms.push_back(std::sqrt(sum));
    train::StepScalars scalars(kCpu);
    scalars.set(train::StepScalars::lr, 1e-2);
    scalars.set(train::StepScalars::clip, 1);
    scalars.set(train::StepScalars::step, number);
    optimizer->prepare(scalars);
    optimizer->step(scalars.values());
    optimizer->count_update();
  }

  // Weights and moments, with the gaps between parameters.
  std::vector<std::string> bits() {
    std::vector<std::string> all;
    for (const train::FlatGroup& group : buffers->groups())
      all.push_back(test::bits_of(group.param));
    for (const nn::NamedTensor& t : optimizer->state()) all.push_back(test::bits_of(t.value));
    return all;
  }
};

TEST(BriefGrads, GiveTheBitsOfGradientsInOneBuffer) {
  struct Case {
    const char* kind;
    DType dtype;
    bool narrow;
  };
  for (const Case& c : {Case{"adamw", DType::f64, false}, Case{"adamw", DType::bf16, false},
                        Case{"adamw", DType::bf16, true}, Case{"sgd", DType::f32, false}}) {
    Rig flat(c.kind, c.dtype, c.narrow, 0);
    for (const int64_t bytes : {1, 3000, 1 << 20}) {
      Rig brief(c.kind, c.dtype, c.narrow, bytes), whole(c.kind, c.dtype, c.narrow, 0);
      for (int i = 0; i < 3; ++i) {
        whole.step(i);
        brief.step(i);
        EXPECT_NEAR(brief.norms.back(), whole.norms.back(), 1e-12 * whole.norms.back());
      }
      EXPECT_GT(whole.norms.back(), 0);
      EXPECT_NE(whole.bits(), flat.bits());
      EXPECT_EQ(brief.bits(), whole.bits()) << c.kind << " " << to_string(c.dtype) << " " << bytes;
    }
  }
}

TEST(BriefGrads, HoldNoMemoryWhileTheLossIsFound) {
  Rig rig("adamw", DType::f32, false, 1 << 10);
  size_t pieces = 0;
  for (const train::FlatGroup& group : rig.buffers->groups()) pieces += group.pieces.size();
  EXPECT_GT(pieces, 8U);
  const int64_t before = device_bytes(kCpu);
  rig.step(0);
  EXPECT_EQ(device_bytes(kCpu) - before, rig.buffers->brief_bytes());
  rig.buffers->drop_grads();
  EXPECT_EQ(device_bytes(kCpu), before);
  {
    const Var total = rig.loss();
    for (const train::FlatGroup& group : rig.buffers->groups()) {
      for (const train::GradPiece& piece : group.pieces) EXPECT_FALSE(piece.grad.defined());
    }
  }
  EXPECT_EQ(Rig("adamw", DType::f32, false, 0).buffers->brief_bytes(), 0);
}

// Experts without tokens get no gradient from backward: zeros, from fresh memory.
TEST(BriefGrads, OfWhatNoLossReachedAreZero) {
  Rig rig("adamw", DType::f32, false, 1);
  rig.buffers->finish_grads();
  for (const train::FlatGroup& group : rig.buffers->groups()) {
    for (const train::GradPiece& piece : group.pieces) {
      for (const double x : piece.grad.to_vector()) ASSERT_EQ(x, 0);
    }
  }
}

}  // namespace
}  // namespace pyramoe
