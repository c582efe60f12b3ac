// Where collectives on CUDA tensors go. A ProcessGroup looks at the tensor: CPU tensors travel over
// its Channel, others come here.
#pragma once

#include "core/device.h"

namespace pyramoe::dist {

// Throws Error(config): this build has no transport for tensors of that device.
[[noreturn]] void refuse_cuda(const char* op, Device device);

}  // namespace pyramoe::dist
