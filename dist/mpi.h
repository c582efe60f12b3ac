// The one door to MPI: its life cycle and a Channel over it. dist/mpi.cpp fills it where MPI was
// found, dist/no_mpi.cpp explains itself where it was not.
#pragma once

#include <memory>

#include "dist/channel.h"

namespace pyramoe::dist {

// MPI_Init; the channel spans all ranks. Throws Error(config) in a build without MPI.
std::unique_ptr<Channel> mpi_start();
// MPI_Finalize, after all channels are gone.
void mpi_finish();
// Ends every rank of the job with this status; does not return.
[[noreturn]] void mpi_abort(int status);
// A number that is equal on ranks of one machine and different elsewhere. All ranks must call it.
int mpi_machine(const Channel& world);

}  // namespace pyramoe::dist
