// Collectives on CUDA tensors: not in this build. They join behind the same ProcessGroup calls.
#include "dist/nccl.h"

#include "core/error.h"

namespace pyramoe::dist {

void refuse_cuda(const char* op, Device device) {
  fail(Exit::config, op, ": the tensor is on ", to_string(device),
       ", and this build carries tensors between ranks on the CPU only; train with --device cpu, "
       "or on one rank");
}

}  // namespace pyramoe::dist
