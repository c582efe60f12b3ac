// One grouped product as its kernels see it: pointers, sizes, what to do with the result.
//
// cuda/grouped.cu checks tensors and fills this in; grouped_portable.cu (any GPU, any shape) and
// grouped_hopper.cu (wgmma and the bulk copy engine) compute it. Expert e owns rows
// [offsets[e], offsets[e + 1]) of the R rows; only the device ever reads the offsets.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace pyramoe::gpu::grouped {

//            A            B            C
// forward    x (R, K)     w (E, M, K)  y (R, M)       y = x w_e^T + bias_e
// dx         dy (R, M)    w (E, M, K)  dx (R, K)      dx = dy w_e
// dw         dy (R, M)    x (R, K)     dw (E, M, K)   dw_e (+)= dy_e^T x_e
enum class Form { forward, dx, dw };

// What becomes of a sum s before it is stored:
enum class Finish {
  plain,          // c = s
  gelu,           // c = s, extra = gelu(c)                           (forward)
  gelu_backward,  // c = s * gelu'(pre), extra = gelu(pre) if given   (dx)
};

// The running count of row tiles lies in shared memory.
constexpr int64_t kMostExperts = 1536;

struct Product {
  Form form;
  Finish finish = Finish::plain;
  const void* a;
  const void* b;
  void* c;
  const void* bias = nullptr;  // (E, M), forward only
  const void* pre = nullptr;   // shaped like c; may be c itself
  void* extra = nullptr;       // shaped like c
  const int32_t* offsets;      // (E + 1)
  int64_t experts, rows, m, k;
  bool bf16;                // a and b; else f32
  bool wide = false;        // c is f32 above bf16
  bool accumulate = false;  // dw only
};

void portable(const Product& p, cudaStream_t stream);
// True when `hopper` can take it: bf16, widths and addresses on 16-byte borders.
bool fits_hopper(const Product& p);
void hopper(const Product& p, int multiprocessors, cudaStream_t stream);

// db_e (+)= column sums of dy_e, in row order.   dy (R, M), db (E, M)
struct ColumnSums {
  const void* dy;
  void* db;
  const int32_t* offsets;
  int64_t experts, m;
  bool bf16, wide, accumulate;
};
void column_sums(const ColumnSums& p, cudaStream_t stream);

}  // namespace pyramoe::gpu::grouped
