// A contiguous, row-major n-dimensional view of a Storage.
//
// A Tensor is a cheap handle: copies share memory, and views (reshape, rows) never copy. It holds
// numbers only; autograd/var.h adds the memory of how they were made. Numerical work on tensors
// lives in core/kernels.
#pragma once

#include <initializer_list>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "core/device.h"
#include "core/dtype.h"
#include "core/shape.h"
#include "core/storage.h"

namespace pyramoe {

class Tensor {
 public:
  Tensor() = default;                                      // undefined: "no tensor"
  Tensor(Shape shape, DType dtype, Device device = kCpu);  // uninitialised
  Tensor(std::shared_ptr<Storage> storage, int64_t byte_offset, Shape shape, DType dtype);

  static Tensor zeros(Shape shape, DType dtype, Device device = kCpu);
  static Tensor full(Shape shape, DType dtype, double value, Device device = kCpu);
  template <class T>
  static Tensor from(std::span<const T> values, Shape shape, Device device = kCpu) {
    return from_bytes(values.data(), static_cast<int64_t>(values.size_bytes()), std::move(shape),
                      DTypeOf<T>::value, device);
  }
  template <class T>
  static Tensor from(const std::vector<T>& values, Shape shape, Device device = kCpu) {
    return from(std::span<const T>(values), std::move(shape), device);
  }
  static Tensor scalar(double value, DType dtype, Device device = kCpu);

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t rank() const { return static_cast<int64_t>(shape_.size()); }
  int64_t dim(int axis) const;  // negative axes count from the end
  int64_t numel() const { return numel_; }
  int64_t bytes() const { return numel_ * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const;

  // The elements. Throws Error if T is not the dtype, or the tensor is not on the CPU.
  template <class T>
  T* data() const {
    PM_CHECK(dtype_ == DTypeOf<T>::value, "Tensor ", to_string(shape_), " holds ",
             to_string(dtype_), ", asked for ", to_string(DTypeOf<T>::value));
    PM_CHECK(device().type != DeviceType::cuda, "Tensor ", to_string(shape_), " is on ",
             to_string(device()), ": the host cannot read it there; use to(kCpu)");
    return static_cast<T*>(raw());
  }
  template <class T>
  std::span<T> span() const {
    return {data<T>(), static_cast<size_t>(numel_)};
  }
  void* raw() const;    // untyped, on any device; null when undefined
  double item() const;  // the only element, as double, from any device
  std::vector<double> to_vector() const;

  Tensor reshape(Shape shape) const;              // a view; one size may be -1
  Tensor rows(int64_t begin, int64_t end) const;  // a view along axis 0
  Tensor to(Device device) const;                 // itself when already there
  Tensor to(DType dtype) const;                   // itself when already so
  Tensor clone() const;
  void copy_from(const Tensor& other) const;  // same shape and dtype, any device
  void zero() const;

  bool same_memory(const Tensor& other) const;
  const std::shared_ptr<Storage>& storage() const { return storage_; }

 private:
  static Tensor from_bytes(const void* data, int64_t bytes, Shape shape, DType dtype,
                           Device device);

  std::shared_ptr<Storage> storage_;
  int64_t byte_offset_ = 0;
  int64_t numel_ = 0;
  Shape shape_;
  DType dtype_ = DType::f32;
};

using Tensors = std::vector<Tensor>;

inline Tensor empty_like(const Tensor& x) { return Tensor(x.shape(), x.dtype(), x.device()); }
inline Tensor zeros_like(const Tensor& x) {
  return Tensor::zeros(x.shape(), x.dtype(), x.device());
}

}  // namespace pyramoe
