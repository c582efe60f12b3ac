#include "train/layout_sum.h"

#include "dist/reduce_tree.h"

namespace pyramoe::train {
namespace {

// Of each expert, its ranks' parts as the tree that a sum over these ranks is.
//   from (experts x sources, …), to (experts, …)
void sum_sources(const Tensor& from, int64_t sources, const Tensor& to) {
  for (int64_t e = 0; e < to.dim(0); ++e) {
    Tensors parts;
    for (int64_t s = e * sources; s < (e + 1) * sources; ++s) parts.push_back(from.rows(s, s + 1));
    dist::sum_tree(parts, to.rows(e, e + 1));
  }
}

}  // namespace

LayoutSum::LayoutSum(FlatBuffers& buffers) {
  for (const FlatGroup& group : buffers.groups()) {
    bool apart = false;
    for (const FlatSlot& slot : group.slots) apart |= slot.parameter->place.by_source.defined();
    if (!apart) {
      pieces_.push_back({group.grad, group.grad});
      continue;
    }
    for (const FlatSlot& slot : group.slots) {
      const Tensor to = group.view(group.grad, slot), from = slot.parameter->place.by_source;
      pieces_.push_back(from.defined() ? Piece{from, to, from.dim(0) / to.dim(0)} : Piece{to, to});
    }
  }
}

void LayoutSum::start() {
  for (Piece& piece : pieces_) piece.sum.clear();
}

void LayoutSum::add() {
  for (Piece& piece : pieces_) piece.sum.add(piece.from);
}

void LayoutSum::finish() {
  for (Piece& piece : pieces_) {
    if (piece.sources == 1) {
      piece.sum.take(piece.to);
      continue;
    }
    const Tensor all = piece.from;  // its last micro-batch is in the sum
    piece.sum.take(all);
    sum_sources(all, piece.sources, piece.to);
  }
}

}  // namespace pyramoe::train
