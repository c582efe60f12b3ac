// The ranks that run these tests.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "core/rng.h"
#include "dist/mesh.h"
#include "dist/runtime.h"

namespace pyramoe::test {

const dist::ProcessGroup& world();

// Values that depend on (seed, rank, element) only.
inline Tensor random_tensor(Shape shape, DType dtype, uint64_t seed, int rank) {
  Tensor x(std::move(shape), DType::f64);
  const RngKey key{seed, RngPurpose::test, static_cast<uint32_t>(rank), 0};
  for (int64_t i = 0; i < x.numel(); ++i) {
    x.data<double>()[i] = random_normal(key, static_cast<uint64_t>(i));
  }
  return x.to(dtype);
}

}  // namespace pyramoe::test
