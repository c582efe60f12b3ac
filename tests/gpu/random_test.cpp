// Dropout draws the same words on both devices, so its twins agree bit for bit.
#include "core/kernels/random.h"

#include "tests/gpu/twins.h"

namespace pyramoe::gputest {
namespace {

TEST(Dropout, TwinsAgreeBitForBit) {
  SKIP_WITHOUT_GPU();
  const RngKey key{.seed = 7, .purpose = RngPurpose::dropout, .step = 3, .layer = 5};
  for (DType d : kNarrow) {
    for (const Shape& shape :
         std::vector<Shape>{{1, 1}, {3, 5}, {31, 33}, {200, 1024}, {7, 1025}, {0, 8}}) {
      for (int64_t first : {int64_t{0}, int64_t{3}, int64_t{1} << 33}) {
        for (const double p : {0.0, 0.1, 0.9}) {
          for (const bool aligned : {true, false}) {
            const std::string what = name_of("dropout", d, shape);
            const Twins t = run_twins(
                {{normal(shape, d)}, {Tensor(shape, d)}},
                [&](const Tensors& x, Tensors& y) {
                  kernels::dropout(aligned ? x[0] : off_border(x[0]), p, key, first, y[0]);
                },
                {}, what);
            expect_same_bits(t.cpu[0], t.gpu[0], what);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace pyramoe::gputest
