// MPI point-to-point messages as a Channel. One communicator a group keeps groups apart; the tag is
// the number of the collective within its group.
#include "dist/mpi.h"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "core/error.h"

namespace pyramoe::dist {
namespace {

constexpr int64_t kPiece = int64_t{1} << 30;  // MPI counts are ints

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {}, host[256] = {};
  int length = 0, rank = -1;
  MPI_Error_string(code, text, &length);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  ::gethostname(host, sizeof host - 1);
  fail(Exit::peer, call, " on rank ", rank, " (", host, "): ", text);
}
#define PM_MPI(call) check(call, #call)

class MpiRequest : public Request {
 public:
  // post(offset, count, request) starts one piece.
  template <class Post>
  MpiRequest(int64_t bytes, Post post) {
    for (int64_t at = 0; at == 0 || at < bytes; at += kPiece) {
      MPI_Request request = MPI_REQUEST_NULL;
      post(at, static_cast<int>(std::min(kPiece, bytes - at)), &request);
      pieces_.push_back(request);
    }
  }
  bool done() override {
    int flag = 0;
    PM_MPI(
        MPI_Testall(static_cast<int>(pieces_.size()), pieces_.data(), &flag, MPI_STATUSES_IGNORE));
    return flag != 0;
  }

 private:
  std::vector<MPI_Request> pieces_;
};

class MpiChannel : public Channel {
 public:
  explicit MpiChannel(MPI_Comm comm) : comm_(comm) {
    PM_MPI(MPI_Comm_rank(comm_, &rank_));
    PM_MPI(MPI_Comm_size(comm_, &size_));
    MPI_Group mine, world;
    PM_MPI(MPI_Comm_group(comm_, &mine));
    PM_MPI(MPI_Comm_group(MPI_COMM_WORLD, &world));
    std::vector<int> local(static_cast<size_t>(size_));
    for (int i = 0; i < size_; ++i) local[static_cast<size_t>(i)] = i;
    members_.resize(local.size());
    PM_MPI(MPI_Group_translate_ranks(mine, size_, local.data(), world, members_.data()));
    MPI_Group_free(&mine);
    MPI_Group_free(&world);
  }
  ~MpiChannel() override {
    int finished = 0;
    MPI_Finalized(&finished);
    if (comm_ != MPI_COMM_WORLD && !finished) MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const std::vector<int>& members() const override { return members_; }

  std::unique_ptr<Channel> split(int color, int key) const override {
    MPI_Comm part = MPI_COMM_NULL;
    PM_MPI(MPI_Comm_split(comm_, color, key, &part));
    return std::make_unique<MpiChannel>(part);
  }

  RequestPtr send(const void* data, int64_t bytes, int to, int tag) const override {
    return std::make_unique<MpiRequest>(bytes, [&](int64_t at, int count, MPI_Request* request) {
      PM_MPI(
          MPI_Isend(static_cast<const char*>(data) + at, count, MPI_BYTE, to, tag, comm_, request));
    });
  }
  RequestPtr receive(void* data, int64_t bytes, int from, int tag) const override {
    return std::make_unique<MpiRequest>(bytes, [&](int64_t at, int count, MPI_Request* request) {
      PM_MPI(MPI_Irecv(static_cast<char*>(data) + at, count, MPI_BYTE, from, tag, comm_, request));
    });
  }

 private:
  MPI_Comm comm_;
  int rank_ = 0, size_ = 1;
  std::vector<int> members_;
};

}  // namespace

std::unique_ptr<Channel> mpi_start() {
  int given = 0;
  PM_MPI(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &given));
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  return std::make_unique<MpiChannel>(MPI_COMM_WORLD);
}

void mpi_finish() { MPI_Finalize(); }

void mpi_abort(int status) {
  // MPI_Abort may hang in a library that another thread is in the middle of; the launcher ends the
  // job for a process that exits with an error, too.
  std::thread([status] { MPI_Abort(MPI_COMM_WORLD, status); }).detach();
  ::sleep(2);
  ::_exit(status);
}

int mpi_machine(const Channel& world) {
  MPI_Comm here = MPI_COMM_NULL;
  PM_MPI(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, world.rank(), MPI_INFO_NULL,
                             &here));
  int first = world.rank();
  PM_MPI(MPI_Bcast(&first, 1, MPI_INT, 0, here));
  MPI_Comm_free(&here);
  return first;
}

}  // namespace pyramoe::dist
