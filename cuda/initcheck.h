// What compute-sanitizer's initcheck does not see: bytes that the copy engine stores by a tensor
// map, as cuBLAS's kernels for Hopper, attention and the grouped products do.
//
// To the tool, who reads such results reads what nobody wrote. With PYRAMOE_INITCHECK=1 they are
// filled with NaN by ordinary stores before the kernel runs, exactly where it is to write: then
// initcheck is right about everything else, and an element that a kernel forgets is NaN.
// tests/gpu/sanitize.sh sets it where tests/gpu/copy_engine_probe.cu finds the tool blind.
#pragma once

#include <cstdint>

namespace pyramoe::gpu {
namespace grouped {
struct Product;
}

bool initcheck_is_blind();  // PYRAMOE_INITCHECK=1

// On the compute stream; nothing without the flag.
void fill_for_initcheck(void* data, int64_t bytes);
// What a grouped product on Hopper is to write: rows behind the last segment stay unwritten.
void fill_for_initcheck(const grouped::Product& p);

}  // namespace pyramoe::gpu
