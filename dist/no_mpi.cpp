// A build without MPI: one rank, and a clear word to whoever asks for more.
#include <unistd.h>

#include "core/error.h"
#include "dist/mpi.h"

namespace pyramoe::dist {

std::unique_ptr<Channel> mpi_start() {
  fail(
      Exit::config,
      "this build of pyramoe has no MPI, but it was started as one of several ranks; build it with "
      "OpenMPI (libopenmpi-dev) and without CUDA, as ranks compute on CPUs, or start it without "
      "mpirun or srun");
}

void mpi_finish() {}

void mpi_abort(int status) { ::_exit(status); }

int mpi_machine(const Channel&) { return 0; }

}  // namespace pyramoe::dist
