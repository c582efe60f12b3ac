#include "cli/ranks.h"

#include <cstdio>
#include <new>

#include "train/layout.h"

namespace pyramoe {
namespace {

// An error that every rank meets at the same place.
struct TogetherError : Error {
  using Error::Error;
};

// Says what is wrong and ends all ranks with that status.
void end_job(const dist::Runtime& runtime, const char* what, Exit code) {
  std::fflush(stdout);
  if (*what) std::fprintf(stderr, "pyramoe: rank %d: %s\n", runtime.world().rank(), what);
  std::fflush(stderr);
  runtime.abort(static_cast<int>(code));
}

}  // namespace

dist::Mesh start_mesh(dist::Runtime& runtime, train::RunConfig& config) {
  runtime.configure(
      {config.parallel.node_size, config.parallel.deadline, config.parallel.link_model});
  try {
    return train::make_mesh(runtime.world(), config);
  } catch (const Error& error) {
    throw TogetherError(error.code(), runtime.world().rank() == 0 ? error.what() : "");
  }
}

void on_all_ranks(const std::function<void(dist::Runtime&)>& work) {
  dist::Runtime runtime;
  try {
    work(runtime);
  } catch (const TogetherError&) {
    throw;
  } catch (const Error& error) {
    if (!runtime.many()) throw;
    if (error.code() == Exit::preempted) {
      throw Error(error.code(), runtime.world().rank() == 0 ? error.what() : "");
    }
    end_job(runtime, error.what(), error.code());
  } catch (const std::bad_alloc&) {
    if (!runtime.many()) throw;
    end_job(runtime, "out of memory", Exit::memory);
  }
}

}  // namespace pyramoe
