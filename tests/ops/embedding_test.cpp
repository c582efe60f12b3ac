// Rows of the embedding.
#include "tests/ops/op_test.h"

namespace pyramoe::optest {
namespace {

OP_TEST(embedding,
        {.inputs = {ids({4}, 7), ids({4}, 5), normal({7, 3}), normal({5, 3})},
         .f = [](const Vars& v) { return ops::embedding(v[0].value(), v[1].value(), v[2], v[3]); },
         .expect =
             [](const Tensors& t) {
               const int64_t d = t[2].dim(1);
               return make({t[0].numel(), d}, [&](int64_t i) {
                 return t[2].data<double>()[t[0].data<int32_t>()[i / d] * d + i % d] +
                        t[3].data<double>()[t[1].data<int32_t>()[i / d] * d + i % d];
               });
             },
         .also = {{int_values({2, 2, 2, 0}, {4}), ids({4}, 2), normal({3, 1}), normal({2, 1})},
                  {ids({0}, 3), ids({0}, 3), normal({3, 4}), normal({3, 4})},
                  {ids({100}, 31), ids({100}, 33), normal({31, 33}), normal({33, 33})},
                  {ids({9}, 7), ids({9}, 5), constant(normal({7, 3})), normal({5, 3})},
                  {ids({20}, 3), ids({20}, 5), normal({3, 1025}), normal({5, 1025})}}});

TEST(Embedding, NamesATokenOutsideTheVocabulary) {
  const Var table(Tensor::zeros({7, 3}, DType::f32)), positions(Tensor::zeros({4, 3}, DType::f32));
  for (int32_t bad : {7, -1}) {
    const Tensor token = Tensor::from(std::vector<int32_t>{0, 6, bad}, {3});
    const Tensor position = Tensor::from(std::vector<int32_t>{0, 1, 2}, {3});
    try {
      ops::embedding(token, position, table, positions);
      FAIL() << "accepted " << bad;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data);
      EXPECT_NE(std::string(error.what()).find(cat("token ", bad, " at place 2")),
                std::string::npos)
          << error.what();
    }
  }
}

TEST(Embedding, SumsManyBf16RowsWithoutLosingSmallOnes) {
  const Var table(Tensor::zeros({2, 1}, DType::bf16), true);
  const Var positions(Tensor::zeros({1, 1}, DType::bf16));
  const Tensor token = Tensor::zeros({1000}, DType::i32), position = token.clone();
  backward(ops::embedding(token, position, table, positions),
           Tensor::full({1000, 1}, DType::bf16, 1));
  EXPECT_EQ(table.grad().to_vector(), (std::vector<double>{1000, 0}));
}

}  // namespace
}  // namespace pyramoe::optest
