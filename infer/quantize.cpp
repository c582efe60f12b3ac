// See quantize.h.
#include "infer/quantize.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "moe/build_model.h"

namespace pyramoe::infer {
namespace {

constexpr int64_t kGroup = 32;      // neighbours that share a scale
constexpr int64_t kRowsAtOnce = 8;  // of a thread

float largest_code(int64_t bits) { return bits == 8 ? 127.0f : 7.0f; }

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The code at place i of a row.
int get_code(const uint8_t* row, int64_t i, int64_t bits) {
  if (bits == 8) return static_cast<int8_t>(row[i]);
  return ((row[i / 2] >> (i % 2 * 4)) & 15) - 8;
}

void put_code(uint8_t* row, int64_t i, int64_t bits, int code) {
  if (bits == 8) {
    row[i] = static_cast<uint8_t>(code);
  } else {
    row[i / 2] = static_cast<uint8_t>(row[i / 2] | ((code + 8) << (i % 2 * 4)));
  }
}

template <class T>
void pack_row(const T* x, int64_t n, int64_t bits, uint8_t* codes, BFloat16* scales) {
  const float most = largest_code(bits);
  for (int64_t begin = 0; begin < n; begin += kGroup) {
    const int64_t end = std::min(n, begin + kGroup);
    float largest = 0;
    for (int64_t i = begin; i < end; ++i) {
      const float value = std::abs(static_cast<float>(x[i]));
      if (!std::isfinite(value)) {
        fail(Exit::checkpoint, "an expert's weight is not finite: it has no code");
      }
      largest = std::max(largest, value);
    }
    const BFloat16 scale(largest / most);
    scales[begin / kGroup] = scale;
    const auto unit = static_cast<float>(scale);
    for (int64_t i = begin; i < end; ++i) {
      const float code = unit > 0 ? std::nearbyint(static_cast<float>(x[i]) / unit) : 0.0f;
      put_code(codes, i, bits, static_cast<int>(std::clamp(code, -most, most)));
    }
  }
}

bool is_expert(const std::string& name) { return name.find(".experts.") != std::string::npos; }

// Slots without an expert (moe.budget) need not be stored: bytes of those that have one.
int64_t live_bytes(nn::Gpt& model, const std::string& name, int64_t bytes) {
  for (const moe::MoeLayerRef& ref : moe::moe_layers(model)) {
    if (!name.starts_with(cat("blocks.", ref.layer, "."))) continue;
    return bytes / ref.moe->router().experts() * ref.moe->router().live_count();
  }
  return bytes;
}

}  // namespace

PackedRows pack_rows(const Tensor& x, int64_t bits) {
  if (bits != 8 && bits != 4) fail(Exit::config, "expert bits: expected 8 or 4, got ", bits);
  PackedRows packed;
  packed.bits = bits;
  packed.n = x.dim(-1);
  const int64_t rows = x.numel() / packed.n;
  packed.codes = Tensor::zeros({rows, ceil_div(packed.n * bits, 8)}, DType::u8);
  packed.scales = Tensor({rows, ceil_div(packed.n, kGroup)}, DType::bf16);
  visit_floating(x.dtype(), [&]<class T>() {
    parallel_for(rows, kRowsAtOnce, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        pack_row(x.data<T>() + r * packed.n, packed.n, bits,
                 packed.codes.data<uint8_t>() + r * packed.codes.dim(1),
                 packed.scales.data<BFloat16>() + r * packed.scales.dim(1));
      }
    });
  });
  return packed;
}

void unpack_rows(const PackedRows& packed, const Tensor& x) {
  const int64_t n = packed.n;
  PM_CHECK(x.dim(-1) == n && x.numel() == n * packed.codes.dim(0),
           "unpack_rows: ", packed.codes.dim(0), " rows of ", n, " into ", to_string(x.shape()));
  visit_floating(x.dtype(), [&]<class T>() {
    parallel_for(packed.codes.dim(0), kRowsAtOnce, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const uint8_t* codes = packed.codes.data<uint8_t>() + r * packed.codes.dim(1);
        const BFloat16* scales = packed.scales.data<BFloat16>() + r * packed.scales.dim(1);
        T* out = x.data<T>() + r * n;
        for (int64_t i = 0; i < n; ++i) {
          const auto code = static_cast<float>(get_code(codes, i, packed.bits));
          out[i] = T(code * static_cast<float>(scales[i / kGroup]));
        }
      }
    });
  });
}

StorageBytes quantize_experts(LoadedRun& run, int64_t bits) {
  if (bits != 0 && bits != 8 && bits != 4) {
    fail(Exit::config, "--expert-bits: expected 8 or 4, got ", bits);
  }
  StorageBytes bytes;
  bytes.expert_bits = bits > 0 ? bits : 8 * size_of(run.dtype);
  for (const nn::Parameter* p : run.model->parameters(true)) {
    const Tensor& value = p->var.value();
    int64_t size = value.bytes();
    if (is_expert(p->name) && p->name.ends_with(".weight") && bits > 0) {
      const Tensor host = value.to(kCpu);
      const PackedRows packed = pack_rows(host, bits);
      unpack_rows(packed, host);
      if (!host.same_memory(value)) value.copy_from(host);
      size = packed.bytes();
    }
    if (is_expert(p->name)) bytes.expert_bytes += size = live_bytes(*run.model, p->name, size);
    bytes.total_bytes += size;
  }
  if (bits > 0 && bytes.expert_bytes == 0) {
    fail(Exit::config, "--expert-bits = ", bits, ": ", run.checkpoint,
         " is a dense model: it has no experts to round");
  }
  return bytes;
}

}  // namespace pyramoe::infer
