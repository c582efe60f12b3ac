// What attention says of arguments that do not fit together: a row for each, with the words that
// name the tensor and what was expected of it. (Both devices ask through the same header.)
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "core/kernels/attention.h"

namespace pyramoe {
namespace {

// Arguments that fit: 2 sequences of 3 tokens, 2 heads of 4, a cache of 5 tokens.
struct Arguments {
  Tensor qkv{Shape{2, 3, 3, 2, 4}, DType::f32};
  Tensor y{Shape{2, 3, 8}, DType::f32}, dy{Shape{2, 3, 8}, DType::f32};
  Tensor lse{Shape{2, 2, 3}, DType::f32};
  Tensor dqkv{Shape{2, 3, 3, 2, 4}, DType::f32};
  Tensor lengths = Tensor::from(std::vector<int32_t>{0, 2}, {2});
  Tensor cache{Shape{2, 5, 2, 2, 4}, DType::f32};

  Arguments() {
    for (Tensor* x : {&qkv, &y, &dy, &lse, &cache}) x->zero();
  }
};

struct Row {
  const char* name;
  std::function<void(Arguments&)> spoil;
  const char* op;
  const char* says;
};

const Row kRows[] = {
    {"QkvOfTwo",
     [](Arguments& a) {
       a.qkv = Tensor({2, 3, 2, 2, 4}, DType::f32);
     },
     "forward", "qkv must be (B, T, 3, H, Dh)"},
    {"ShortY",
     [](Arguments& a) {
       a.y = Tensor({2, 2, 8}, DType::f32);
     },
     "forward", "expected f32 with 48 elements"},
    {"NarrowLse",
     [](Arguments& a) {
       a.lse = Tensor({2, 2, 3}, DType::bf16);
     },
     "forward", "lse is bf16"},
    {"OtherDy",
     [](Arguments& a) {
       a.dy = Tensor({2, 3, 8}, DType::bf16);
     },
     "backward", "dy is bf16"},
    {"ShortDqkv",
     [](Arguments& a) {
       a.dqkv = Tensor({2, 3, 2, 2, 4}, DType::f32);
     },
     "backward", "expected f32 with 144 elements"},
    {"CacheOfOtherHeads",
     [](Arguments& a) {
       a.cache = Tensor({2, 5, 2, 3, 4}, DType::f32);
     },
     "cached", "expected (B, T_max, 2, H, Dh) to match qkv"},
    {"WideLengths", [](Arguments& a) { a.lengths = Tensor({2}, DType::i64); }, "cached",
     "lengths is i64"},
    {"FullCache",
     [](Arguments& a) {
       a.lengths = Tensor::from(std::vector<int32_t>{0, 3}, {2});
     },
     "cached", "3 more do not fit a cache of 5"},
};

void call(const std::string& op, Arguments& a) {
  if (op == "forward") {
    kernels::attention_forward(a.qkv, {}, a.y, a.lse);
  } else if (op == "backward") {
    kernels::attention_backward(a.dy, a.qkv, a.y, a.lse, {}, a.dqkv);
  } else {
    kernels::attention_cached(a.qkv, a.lengths, a.cache, a.y);
  }
}

TEST(AttentionChecks, WhatFitsIsTaken) {
  for (const char* op : {"forward", "backward", "cached"}) {
    Arguments a;
    EXPECT_NO_THROW(call(op, a)) << op;
  }
}

TEST(AttentionChecks, SaysWhichArgumentDoesNotFit) {
  for (const Row& row : kRows) {
    Arguments a;
    row.spoil(a);
    try {
      call(row.op, a);
      ADD_FAILURE() << row.name << " was taken";
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find(row.says), std::string::npos) << row.name << ": " << text;
      EXPECT_NE(text.find(std::string("attention_") + row.op), std::string::npos) << text;
    }
  }
}

}  // namespace
}  // namespace pyramoe
