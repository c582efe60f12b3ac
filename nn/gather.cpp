#include "nn/gather.h"

#include <algorithm>

namespace pyramoe::nn {
namespace {

// Where every rank's part begins: (ranks, axes).
Tensor begins_of(const Box& box, const dist::ProcessGroup& world) {
  const auto axes = static_cast<int64_t>(box.begin.size());
  const Tensor mine = Tensor::from(box.begin, {1, axes});
  Tensor all({world.size(), axes}, DType::i64);
  world.all_gather(mine, all);
  return all;
}

// True when no lower rank has the part that `rank` has.
bool first_with_part(const Tensor& begins, int rank) {
  const int64_t axes = begins.dim(1);
  const int64_t* all = begins.data<int64_t>();
  for (int r = 0; r < rank; ++r) {
    if (std::equal(all + r * axes, all + (r + 1) * axes, all + rank * axes)) return false;
  }
  return true;
}

// All parts of one tensor to rank 0.
Tensor gather_parts(const NamedTensor& part, const dist::ProcessGroup& world) {
  const Tensor begins = begins_of(part.box, world);
  const auto ranks = static_cast<size_t>(world.size());
  const bool root = world.rank() == 0;
  const int64_t n = part.value.numel();
  dist::Counts send(ranks, 0), recv(ranks, 0);
  int64_t coming = 0;
  for (int r = 0; r < world.size(); ++r) {
    if (!first_with_part(begins, r)) continue;
    if (r == world.rank()) send[0] = n;
    if (root) recv[static_cast<size_t>(r)] = n, coming += n;
  }
  Tensor inbox({coming}, part.value.dtype());
  const Tensor out = send[0] > 0 ? part.value.to(kCpu).reshape({n}) : Tensor({0}, inbox.dtype());
  world.all_to_all(out, send, inbox, recv);
  if (!root) return {};
  Tensor whole(part.box.global, inbox.dtype());
  int64_t at = 0;
  const int64_t axes = begins.dim(1);
  for (size_t r = 0; r < ranks; ++r) {
    if (recv[r] == 0) continue;
    Box box = part.box;
    const int64_t* begin = begins.data<int64_t>() + static_cast<int64_t>(r) * axes;
    box.begin.assign(begin, begin + axes);
    put_part(inbox.rows(at, at + n).reshape(part.value.shape()), box, whole);
    at += n;
  }
  return whole;
}

}  // namespace

std::vector<NamedTensor> gather_whole(const std::vector<NamedTensor>& parts,
                                      const dist::ProcessGroup& world) {
  if (world.size() == 1) return parts;
  std::vector<NamedTensor> all;
  for (const NamedTensor& part : parts) {
    const Tensor whole = part.box.whole() ? part.value : gather_parts(part, world);
    if (world.rank() == 0) all.push_back({part.name, whole});
  }
  return all;
}

std::vector<NamedTensor> parts_of(Module& module) {
  std::vector<NamedTensor> parts;
  for (const Parameter* p : module.parameters(true)) {
    parts.push_back({p->name, p->var.value(), p->place.box});
  }
  return parts;
}

}  // namespace pyramoe::nn
