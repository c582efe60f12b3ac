// Shapes as plain values: sizes of a row-major tensor, outermost first.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"

namespace pyramoe {

using Shape = std::vector<int64_t>;

inline std::string to_string(const Shape& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

// Product of all sizes; 1 for a scalar. Throws Error on a negative size or overflow.
inline int64_t numel(const Shape& shape) {
  int64_t n = 1;
  for (int64_t size : shape) {
    PM_CHECK(size >= 0, "shape ", to_string(shape), " has a negative size");
    PM_CHECK(!__builtin_mul_overflow(n, size, &n), "shape ", to_string(shape), " overflows int64");
  }
  return n;
}

}  // namespace pyramoe
