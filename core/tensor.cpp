#include "core/tensor.h"

#include <cstring>

#include "core/kernels/cast.h"
#include "core/kernels/elementwise.h"

namespace pyramoe {

Tensor::Tensor(Shape shape, DType dtype, Device device)
    : numel_(pyramoe::numel(shape)), shape_(std::move(shape)), dtype_(dtype) {
  int64_t bytes = 0;
  PM_CHECK(!__builtin_mul_overflow(numel_, size_of(dtype), &bytes), "tensor ", to_string(shape_),
           " overflows int64 bytes");
  storage_ = std::make_shared<Storage>(bytes, device);
}

Tensor::Tensor(std::shared_ptr<Storage> storage, int64_t byte_offset, Shape shape, DType dtype)
    : storage_(std::move(storage)),
      byte_offset_(byte_offset),
      numel_(pyramoe::numel(shape)),
      shape_(std::move(shape)),
      dtype_(dtype) {
  PM_CHECK(byte_offset_ >= 0 && byte_offset_ + bytes() <= storage_->bytes(), "tensor ",
           to_string(shape_), " at byte ", byte_offset_, " does not fit in a storage of ",
           storage_->bytes(), " bytes");
}

Tensor Tensor::zeros(Shape shape, DType dtype, Device device) {
  Tensor y(std::move(shape), dtype, device);
  y.zero();
  return y;
}

Tensor Tensor::full(Shape shape, DType dtype, double value, Device device) {
  Tensor y(std::move(shape), dtype, device);
  kernels::fill(value, y);
  return y;
}

Tensor Tensor::scalar(double value, DType dtype, Device device) {
  return full({1}, dtype, value, device);
}

Tensor Tensor::from_bytes(const void* data, int64_t bytes, Shape shape, DType dtype,
                          Device device) {
  Tensor y(std::move(shape), dtype, device);
  PM_CHECK(bytes == y.bytes(), "Tensor::from: ", bytes, " bytes given for shape ",
           to_string(y.shape_), " of ", to_string(dtype));
  device_copy(y.raw(), device, data, kCpu, bytes);
  return y;
}

int64_t Tensor::dim(int axis) const {
  const int n = static_cast<int>(shape_.size());
  const int i = axis < 0 ? axis + n : axis;
  PM_CHECK(i >= 0 && i < n, "axis ", axis, " asked of a tensor ", to_string(shape_));
  return shape_[static_cast<size_t>(i)];
}

Device Tensor::device() const { return storage_ ? storage_->device() : kCpu; }

void* Tensor::raw() const {
  return storage_ ? static_cast<std::byte*>(storage_->data()) + byte_offset_ : nullptr;
}

double Tensor::item() const {
  PM_CHECK(numel_ == 1, "item() asked of a tensor ", to_string(shape_));
  return to_vector()[0];
}

std::vector<double> Tensor::to_vector() const {
  const Tensor host = to(kCpu);
  std::vector<double> values(static_cast<size_t>(numel_));
  const auto copy = [&]<class T>(const T* x) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(x[i]);
  };
  switch (dtype_) {
    case DType::f64:
      copy(host.data<double>());
      break;
    case DType::f32:
      copy(host.data<float>());
      break;
    case DType::bf16:
      copy(host.data<BFloat16>());
      break;
    case DType::i64:
      copy(host.data<int64_t>());
      break;
    case DType::i32:
      copy(host.data<int32_t>());
      break;
    case DType::u8:
      copy(host.data<uint8_t>());
      break;
  }
  return values;
}

Tensor Tensor::reshape(Shape shape) const {
  int64_t known = 1;
  int64_t* open = nullptr;
  for (int64_t& size : shape) {
    if (size == -1) {
      PM_CHECK(open == nullptr, "reshape: two sizes are -1 in ", to_string(shape));
      open = &size;
    } else {
      known *= size;
    }
  }
  if (open) *open = known > 0 ? numel_ / known : 0;
  PM_CHECK(pyramoe::numel(shape) == numel_, "reshape: ", to_string(shape_), " has ", numel_,
           " elements, ", to_string(shape), " does not");
  return Tensor(storage_, byte_offset_, std::move(shape), dtype_);
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  PM_CHECK(!shape_.empty() && 0 <= begin && begin <= end && end <= shape_[0], "rows [", begin, ", ",
           end, ") asked of a tensor ", to_string(shape_));
  Shape shape = shape_;
  shape[0] = end - begin;
  const int64_t row_bytes = shape_[0] ? bytes() / shape_[0] : 0;
  return Tensor(storage_, byte_offset_ + begin * row_bytes, std::move(shape), dtype_);
}

Tensor Tensor::to(Device target) const {
  if (!defined() || device() == target) return *this;
  Tensor y(shape_, dtype_, target);
  device_copy(y.raw(), target, raw(), device(), bytes());
  return y;
}

Tensor Tensor::to(DType dtype) const {
  if (!defined() || dtype_ == dtype) return *this;
  Tensor y(shape_, dtype, device());
  kernels::cast(*this, y);
  return y;
}

Tensor Tensor::clone() const {
  if (!defined()) return *this;
  Tensor y(shape_, dtype_, device());
  y.copy_from(*this);
  return y;
}

void Tensor::copy_from(const Tensor& other) const {
  PM_CHECK(shape_ == other.shape_ && dtype_ == other.dtype_, "copy_from: ", to_string(shape_), " ",
           to_string(dtype_), " from ", to_string(other.shape_), " ", to_string(other.dtype_));
  if (numel_ > 0) device_copy(raw(), device(), other.raw(), other.device(), bytes());
}

void Tensor::zero() const {
  if (numel_ > 0) device_zero(raw(), bytes(), device());
}

bool Tensor::same_memory(const Tensor& other) const {
  return defined() && raw() == other.raw() && numel_ == other.numel_;
}

}  // namespace pyramoe
