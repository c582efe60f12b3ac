#include "dist/runtime.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <cstdlib>

#include "core/parallel.h"
#include "dist/link_model.h"
#include "dist/mpi.h"

namespace pyramoe::dist {
namespace {

int number(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::atoi(text) : otherwise;
}

// Node of every rank, numbered by first appearance.
std::vector<int> find_nodes(const std::shared_ptr<Channel>& channel) {
  const int p = channel->size();
  auto alone =
      std::make_shared<Fabric>(std::vector<int>(static_cast<size_t>(p), 0), channel->rank());
  const ProcessGroup group(channel, alone, "world");
  const Tensor mine = Tensor::from(std::vector<int32_t>{mpi_machine(*channel)}, {1});
  Tensor all({p}, DType::i32);
  group.all_gather(mine, all);
  std::vector<int> node(static_cast<size_t>(p)), seen;
  for (int r = 0; r < p; ++r) {
    const int machine = all.data<int32_t>()[r];
    size_t i = 0;
    while (i < seen.size() && seen[i] != machine) ++i;
    if (i == seen.size()) seen.push_back(machine);
    node[static_cast<size_t>(r)] = static_cast<int>(i);
  }
  return node;
}

}  // namespace

Runtime::Runtime() {
  // By mpirun, or by srun --mpi=pmix; a size of 0: the environment does not say.
  const bool launched = std::getenv("OMPI_COMM_WORLD_SIZE") || std::getenv("PMIX_RANK");
  const int size = number("OMPI_COMM_WORLD_SIZE", number("SLURM_NTASKS", 0));
  const int tasks = number("SLURM_NTASKS", 1);
  const char* step = std::getenv("SLURM_STEP_ID");
  if (launched && size != 1) {
    std::shared_ptr<Channel> channel = mpi_start();
    mpi_ = true;
    if (channel->size() > 1) {
      const std::vector<int> node = find_nodes(channel);
      fabric_ = std::make_shared<Fabric>(node, channel->rank());
      const int mine = node[static_cast<size_t>(channel->rank())];
      int64_t here = 0;
      for (const int n : node) here += n == mine;
      fabric_->set_crowded(here > ::sysconf(_SC_NPROCESSORS_ONLN));
      ::prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);  // nanoseconds: short sleeps are meant
      world_ = ProcessGroup(std::move(channel), fabric_, "world");
    }
  }
  if (tasks > 1 && world_.size() == 1 && (step != nullptr || !launched)) {
    fail(Exit::config, "SLURM_NTASKS = ", tasks, ", but this process sees a world of one rank: ",
         "every task would train its own model. Start it with srun --mpi=pmix (or mpirun) and a ",
         "build with MPI, or with one task");
  }
}

Runtime::~Runtime() {
  watchdog_.reset();
  if (fabric_) fabric_->flight().close();
  world_ = ProcessGroup();
  fabric_.reset();
  if (mpi_) mpi_finish();
}

void Runtime::configure(const RuntimeOptions& options) {
  if (!fabric_) return;
  if (options.node_size > 0) fabric_->set_node_size(static_cast<int>(options.node_size));
  if (!options.link_model.empty()) {
    fabric_->set_crowded(true);  // waiting is sleeping
    world_ =
        ProcessGroup(model_links(world_, parse_link_model(options.link_model)), fabric_, "world");
  }
  if (options.deadline > 0) {
    watchdog_ = std::make_unique<Watchdog>(fabric_->flight(), fabric_->rank(), options.deadline);
  }
}

void Runtime::abort(int status) const {
  if (world_.size() > 1) mpi_abort(status);
}

}  // namespace pyramoe::dist
