#include "train/flat_buffers.h"

#include <algorithm>

#include "core/kernels/elementwise.h"
#include "core/kernels/reduce.h"

namespace pyramoe::train {
namespace {

constexpr int64_t kAlign = 32;  // elements: 64 bytes of bf16, more of wider types

int64_t round_up(int64_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

}  // namespace

Tensor FlatGroup::view(const Tensor& flat, const FlatSlot& slot) const {
  const Shape& shape = slot.parameter->var.shape();
  return flat.rows(slot.begin, slot.begin + pyramoe::numel(shape)).reshape(shape);
}

std::vector<GradPiece> FlatGroup::grads() const {
  return pieces.empty() ? std::vector<GradPiece>{{0, grad.numel(), grad}} : pieces;
}

namespace {

// Parameters that share a buffer: of one kind, held by the same ranks.
struct Kind {
  bool decay;
  DType dtype;
  std::vector<int> ranks;
  int64_t copies;
  bool operator==(const Kind&) const = default;
};

Kind kind_of(const nn::Parameter& p) {
  return {p.weight_decay, p.var.dtype(), p.place.sync.members(), p.place.copies};
}

// Kinds in one order on every rank: matrices before vectors, wide before narrow, then as declared.
std::vector<Kind> kinds_of(const std::vector<nn::Parameter*>& parameters) {
  std::vector<Kind> kinds;
  for (const bool decay : {true, false}) {
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      for (const nn::Parameter* p : parameters) {
        const Kind kind = kind_of(*p);
        if (kind.decay != decay || kind.dtype != dtype) continue;
        if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
      }
    }
  }
  return kinds;
}

// Where every parameter would begin, were all groups of one rank one buffer.
std::map<const nn::Parameter*, int64_t> places_on_one_rank(
    const std::vector<nn::Parameter*>& parameters) {
  std::map<const nn::Parameter*, int64_t> places;
  int64_t next = 0;
  for (const bool decay : {true, false}) {
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      for (const nn::Parameter* p : parameters) {
        if (p->weight_decay != decay || p->var.dtype() != dtype) continue;
        places[p] = next;
        next += round_up(pyramoe::numel(nn::global_shape(p->place.box, p->var.shape())));
      }
    }
  }
  return places;
}

}  // namespace

FlatBuffers::FlatBuffers(nn::Module& module, bool narrow, const dist::Mesh* mesh,
                         int64_t piece_bytes) {
  if (mesh) world_ = mesh->world();
  const std::vector<nn::Parameter*> parameters = module.parameters();
  const std::map<const nn::Parameter*, int64_t> places = places_on_one_rank(parameters);
  for (const nn::Parameter* p : parameters) {
    first_square_[p] = squares_;
    squares_ += p->expert ? nn::global_shape(p->place.box, p->var.shape()).at(0) : 1;
  }
  for (const Kind& kind : kinds_of(parameters)) {
    FlatGroup group;
    group.weight_decay = kind.decay;
    group.copies = kind.copies;
    int64_t size = 0;
    Device device;
    for (const nn::Parameter* p : parameters) {
      if (!(kind_of(*p) == kind)) continue;
      group.sync = p->place.sync;
      group.slots.push_back({p, size, places.at(p)});
      size += round_up(p->var.value().numel());
      device = p->var.value().device();
    }
    // Every rank of the group owns an equal range, for ZeRO.
    const int64_t ranks = group.sync.size();
    size = (size + ranks * kAlign - 1) / (ranks * kAlign) * (ranks * kAlign);
    group.scattered = mesh && mesh->config().zero >= 2 && ranks > 1;
    group.param = Tensor::zeros({size}, kind.dtype, device);
    const bool keep = kind.dtype == DType::f64 || (kind.dtype == DType::bf16 && narrow);
    group.grad_dtype = keep ? kind.dtype : DType::f32;
    if (piece_bytes == 0) group.grad = Tensor::zeros({size}, group.grad_dtype, device);
    for (const FlatSlot& slot : group.slots) {
      const Var& var = slot.parameter->var;
      const Tensor home = group.view(group.param, slot);
      home.copy_from(var.value());
      var.set_value(home);
      if (piece_bytes == 0) var.place_grad(group.view(group.grad, slot));
    }
    groups_.push_back(group);
    if (piece_bytes > 0) cut_grad(groups_.size() - 1, piece_bytes);
  }
}

// Neighbours that are written one after the other share a piece.
void FlatBuffers::cut_grad(size_t group, int64_t piece_bytes) {
  FlatGroup& g = groups_[group];
  const int64_t least = piece_bytes / size_of(g.grad_dtype);
  for (const FlatSlot& slot : g.slots) {
    if (g.pieces.empty() || slot.begin - g.pieces.back().begin >= least) {
      if (!g.pieces.empty()) g.pieces.back().end = slot.begin;
      g.pieces.push_back({slot.begin, g.param.numel(), Tensor()});
    }
    slot.parameter->var.place_grad_late(
        [this, group, piece = g.pieces.size() - 1] { make_piece(group, piece); });
  }
}

void FlatBuffers::make_piece(size_t group, size_t piece) {
  FlatGroup& g = groups_[group];
  GradPiece& p = g.pieces[piece];
  p.grad = Tensor({p.end - p.begin}, g.grad_dtype, g.param.device());
  for (size_t i = 0; i < g.slots.size(); ++i) {
    const FlatSlot& slot = g.slots[i];
    if (slot.begin < p.begin || slot.begin >= p.end) continue;
    const Shape& shape = slot.parameter->var.shape();
    const int64_t begin = slot.begin - p.begin, end = begin + pyramoe::numel(shape);
    const int64_t next = (i + 1 < g.slots.size() ? g.slots[i + 1].begin : p.end) - p.begin;
    if (next > end) p.grad.rows(end, next).zero();
    slot.parameter->var.place_grad(p.grad.rows(begin, end).reshape(shape));
  }
}

int64_t FlatBuffers::brief_bytes() const {
  int64_t bytes = 0;
  for (const FlatGroup& group : groups_) {
    if (!group.grad.defined()) bytes += group.param.numel() * size_of(group.grad_dtype);
  }
  return bytes;
}

void FlatBuffers::drop_grads() {
  for (FlatGroup& group : groups_) {
    for (GradPiece& piece : group.pieces) piece.grad = Tensor();
    if (group.pieces.empty()) continue;
    for (const FlatSlot& slot : group.slots) slot.parameter->var.drop_grad();
  }
}

void FlatBuffers::reset_grads() {
  for (const FlatGroup& group : groups_) {
    for (const FlatSlot& slot : group.slots) slot.parameter->var.reset_grad();
  }
}

void FlatBuffers::finish_grads() {
  for (const FlatGroup& group : groups_) {
    for (const FlatSlot& slot : group.slots) {
      if (!slot.parameter->var.grad_written()) slot.parameter->var.grad_place().zero();
    }
  }
}

void FlatBuffers::gather_grads() {
  for (FlatGroup& group : groups_) {
    if (!group.scattered) continue;
    const int64_t n = group.grad.numel();
    const dist::Range own = dist::own_range(n, group.sync.rank(), group.sync.size());
    group.sync.all_gather(group.grad.rows(own.begin, own.end), group.grad);
  }
}

int64_t FlatBuffers::sums_of_squares() const {
  if (by_parameter_) return squares_;
  size_t sums = 0;
  for (const FlatGroup& group : groups_) sums += std::max<size_t>(1, group.pieces.size());
  return static_cast<int64_t>(sums);
}

// Of equal copies the first rank's counts, so the sum over ranks adds zeros to it.
void FlatBuffers::square_parameters(const Tensor& squares) const {
  squares.zero();
  for (const FlatGroup& group : groups_) {
    if (group.sync.rank() > 0) continue;
    for (const FlatSlot& slot : group.slots) {
      const nn::Parameter& p = *slot.parameter;
      const Tensor grad = group.view(group.grad, slot);
      int64_t at = first_square_.at(&p);
      if (p.expert && !p.place.box.whole()) at += p.place.box.begin[0];
      for (int64_t e = 0; e < (p.expert ? grad.dim(0) : 1); ++e, ++at) {
        Tensor sum = squares.rows(at, at + 1);
        kernels::sum_squares(p.expert ? grad.rows(e, e + 1) : grad, sum);
      }
    }
  }
  if (world_.size() == 1) return;
  Tensor all = squares;
  world_.all_reduce(all);
}

void FlatBuffers::sum_squares(const Tensor& squares) const {
  if (by_parameter_) return square_parameters(squares);
  int64_t place = 0;
  for (const FlatGroup& group : groups_) {
    for (const GradPiece& piece : group.pieces) {
      Tensor sum = squares.rows(place, place + 1);
      kernels::sum_squares(piece.grad, sum);
      ++place;
    }
    if (!group.pieces.empty()) continue;  // of one rank
    Tensor sum = squares.rows(place, place + 1), grad = group.grad;
    ++place;
    int64_t copies = group.copies;
    if (group.scattered) {  // each range of the sum is on one rank
      const int ranks = group.sync.size();
      const dist::Range own = dist::own_range(grad.numel(), group.sync.rank(), ranks);
      grad = grad.rows(own.begin, own.end);
      copies /= ranks;
    }
    kernels::sum_squares(grad, sum);
    if (copies > 1) kernels::scale(sum, 1 / static_cast<double>(copies), sum);
  }
  if (world_.size() > 1) {
    Tensor all = squares;
    world_.all_reduce(all);
  }
}

}  // namespace pyramoe::train
