// Twin against twin: one call of a kernel on the CPU, two on the GPU.
#pragma once

#include "tests/gpu/support.h"

namespace pyramoe::gputest {

// Inputs and outputs of a kernel, all on one device.
struct Call {
  Tensors in, out;
};
using RunKernel = std::function<void(const Tensors& in, Tensors& out)>;

// What both twins gave. Outputs named in `keep` (accumulated into, or updated) start from their
// values in `call`; all others are poisoned, on the CPU too. Both GPU runs must agree bit for bit.
struct Twins {
  Tensors cpu, gpu;
};
inline Twins run_twins(const Call& call, const RunKernel& run, const std::vector<size_t>& keep = {},
                       const std::string& what = "") {
  const auto fresh_outputs = [&](Device device) {
    Tensors out;
    for (const Tensor& y : call.out) {
      out.push_back(y.defined() ? poison(Tensor(y.shape(), y.dtype(), device)) : Tensor());
    }
    for (size_t i : keep) out[i] = call.out[i].clone().to(device);
    return out;
  };
  Tensors on_device;
  for (const Tensor& x : call.in) on_device.push_back(x.defined() ? on_gpu(x) : Tensor());
  Twins twins{fresh_outputs(kCpu), fresh_outputs(kGpu)};
  Tensors again = fresh_outputs(kGpu);
  run(call.in, twins.cpu);
  run(on_device, twins.gpu);
  run(on_device, again);
  for (size_t i = 0; i < again.size(); ++i) {
    if (again[i].defined()) expect_same_bits(twins.gpu[i], again[i], what + ": two runs");
  }
  return twins;
}

// A copy of x that starts one element after a 16-byte border.
inline Tensor off_border(const Tensor& x) {
  const Tensor room({x.numel() + 1}, x.dtype(), x.device());
  Tensor view = room.rows(1, x.numel() + 1).reshape(x.shape());
  view.copy_from(x);
  return view;
}

inline std::string name_of(const char* kernel, DType type, const Shape& shape) {
  return cat(kernel, " ", to_string(type), " ", to_string(shape));
}

inline const std::vector<DType> kNarrow{DType::f32, DType::bf16};

}  // namespace pyramoe::gputest
