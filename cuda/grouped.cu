// CUDA twins of the grouped products in core/kernels/matmul.h: shapes checked, then one launch.
//
// bf16 of widths that are multiples of 8 goes to wgmma on Hopper (grouped_hopper.cu); the rest, and
// all of it with PYRAMOE_PORTABLE=1, to grouped_portable.cu; a forward product of very few rows,
// as in decoding, to matvec.cu. Offsets stay on the device, unread.
#include "cuda/grouped.h"

#include "core/kernels/matmul.h"
#include "cuda/initcheck.h"
#include "cuda/launch.cuh"
#include "cuda/matvec.h"

namespace pyramoe::kernels::cuda {
namespace {

using gpu::grouped::Finish;
using gpu::grouped::Form;
using gpu::grouped::Product;

void expect_shape(const char* op, const char* name, const Tensor& x, const Shape& shape) {
  PM_CHECK(x.shape() == shape, op, ": ", name, " has shape ", to_string(x.shape()), ", expected ",
           to_string(shape));
}

void expect_dtype(const char* op, const char* name, const Tensor& x, DType dtype) {
  PM_CHECK(x.dtype() == dtype, op, ": ", name, " is ", to_string(x.dtype()), ", expected ",
           to_string(dtype));
}

bool is_bf16(const char* op, const Tensor& x) {
  return gpu::visit_floating(x.dtype(), op, [&]<class T>() { return sizeof(T) == 2; });
}

// The sizes of a product from its rows (R, width) and weight (E, M, K).
Product sizes(const char* op, Form form, const Tensor& rows, const Tensor& offsets,
              const Tensor& w) {
  PM_CHECK(w.rank() == 3 && rows.rank() == 2, op, ": rows ", to_string(rows.shape()),
           " and weights ", to_string(w.shape()), ", expected (R, width) and (E, M, K)");
  PM_CHECK(offsets.numel() == w.dim(0) + 1, op, ": ", w.dim(0), " experts need ", w.dim(0) + 1,
           " offsets, got ", offsets.numel());
  expect_dtype(op, "offsets", offsets, DType::i32);
  return {.form = form,
          .a = rows.raw(),
          .b = w.raw(),
          .c = nullptr,
          .offsets = gpu::data<int32_t>(offsets),
          .experts = w.dim(0),
          .rows = rows.dim(0),
          .m = w.dim(1),
          .k = w.dim(2),
          .bf16 = is_bf16(op, rows)};
}

void run(const Product& p) {
  if (gpu::few_rows(p)) return;
  if (gpu::has_hopper_kernels() && gpu::grouped::fits_hopper(p)) {
    gpu::fill_for_initcheck(p);
    gpu::grouped::hopper(p, gpu::multiprocessors(), gpu::stream());
  } else {
    gpu::grouped::portable(p, gpu::stream());
  }
}

void forward(const char* op, Finish finish, const Tensor& x, const Tensor& offsets, const Tensor& w,
             const Tensor& bias, Tensor& y, const Tensor& gelu) {
  Product p = sizes(op, Form::forward, x, offsets, w);
  expect_shape(op, "x", x, {p.rows, p.k});
  expect_shape(op, "y", y, {p.rows, p.m});
  expect_dtype(op, "w", w, x.dtype());
  expect_dtype(op, "y", y, x.dtype());
  if (bias.defined()) {
    expect_shape(op, "bias", bias, {p.experts, p.m});
    expect_dtype(op, "bias", bias, x.dtype());
  }
  if (gelu.defined()) {
    expect_shape(op, "gelu", gelu, y.shape());
    expect_dtype(op, "gelu", gelu, x.dtype());
  }
  p.finish = finish, p.c = y.raw(), p.bias = bias.raw(), p.extra = gelu.raw();
  run(p);
}

}  // namespace

void grouped_linear_forward(const Tensor& x, const Tensor& offsets, const Tensor& w,
                            const Tensor& bias, Tensor& y) {
  forward("grouped_linear_forward", Finish::plain, x, offsets, w, bias, y, Tensor());
}

void grouped_linear_gelu_forward(const Tensor& x, const Tensor& offsets, const Tensor& w,
                                 const Tensor& bias, Tensor& pre, Tensor& y) {
  forward("grouped_linear_gelu_forward", Finish::gelu, x, offsets, w, bias, pre, y);
}

void grouped_linear_dx(const Tensor& dy, const Tensor& offsets, const Tensor& w, Tensor& dx) {
  const char* op = "grouped_linear_dx";
  Product p = sizes(op, Form::dx, dy, offsets, w);
  expect_shape(op, "dy", dy, {p.rows, p.m});
  expect_shape(op, "dx", dx, {p.rows, p.k});
  expect_dtype(op, "w", w, dy.dtype());
  p.wide = p.bf16 && dx.dtype() == DType::f32;
  if (!p.wide) expect_dtype(op, "dx", dx, dy.dtype());
  p.c = dx.raw();
  run(p);
}

void grouped_linear_dx_gelu(const Tensor& dy, const Tensor& offsets, const Tensor& w,
                            const Tensor& pre, Tensor& dpre, Tensor& y) {
  const char* op = "grouped_linear_dx_gelu";
  Product p = sizes(op, Form::dx, dy, offsets, w);
  expect_shape(op, "dy", dy, {p.rows, p.m});
  for (const Tensor* x :
       {&pre, static_cast<const Tensor*>(&dpre), static_cast<const Tensor*>(&y)}) {
    expect_shape(op, "pre, dpre and y", *x, {p.rows, p.k});
    expect_dtype(op, "pre, dpre and y", *x, dy.dtype());
  }
  expect_dtype(op, "w", w, dy.dtype());
  p.finish = Finish::gelu_backward, p.pre = pre.raw(), p.c = dpre.raw(), p.extra = y.raw();
  run(p);
}

void grouped_linear_dw(const Tensor& dy, const Tensor& x, const Tensor& offsets, bool accumulate,
                       Tensor& dw, Tensor& db) {
  const char* op = "grouped_linear_dw";
  Product p = sizes(op, Form::dw, dy, offsets, dw);
  expect_shape(op, "dy", dy, {p.rows, p.m});
  expect_shape(op, "x", x, {p.rows, p.k});
  expect_dtype(op, "x", x, dy.dtype());
  p.wide = p.bf16 && dw.dtype() == DType::f32;
  if (!p.wide) expect_dtype(op, "dw", dw, dy.dtype());
  p.b = x.raw(), p.c = dw.raw(), p.accumulate = accumulate;
  run(p);
  if (!db.defined()) return;
  expect_shape(op, "db", db, {p.experts, p.m});
  const bool wide = p.bf16 && db.dtype() == DType::f32;
  if (!wide) expect_dtype(op, "db", db, dy.dtype());
  gpu::grouped::column_sums({.dy = dy.raw(),
                             .db = db.raw(),
                             .offsets = p.offsets,
                             .experts = p.experts,
                             .m = p.m,
                             .bf16 = p.bf16,
                             .wide = wide,
                             .accumulate = accumulate},
                            gpu::stream());
}

}  // namespace pyramoe::kernels::cuda
