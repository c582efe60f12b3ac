// Where parameters and their gradients live: one flat buffer per kind of parameter and per group of
// ranks that share it.
//
// Every parameter of a group becomes a view of the group's flat buffer, and so does its gradient.
// Zeroing, norms, clipping and the update then run over a few long ranges instead of hundreds of
// small tensors, and the addresses never change. Views start at multiples of 64 bytes; the gaps
// are zero and stay zero.
//
// Where memory counts, gradients are brief: each of a group's pieces takes its memory when backward
// first writes there, so that while the loss is found, the fullest moment, none has any.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "dist/grad_reducer.h"
#include "dist/mesh.h"
#include "nn/module.h"

namespace pyramoe::train {

// A parameter's place in its group: elements [begin, begin + numel).
struct FlatSlot {
  const nn::Parameter* parameter;
  int64_t begin;
  int64_t first_id;  // of the whole parameter's first element: its place in the buffers of one rank
};

// Elements [begin, end) of a group's gradient; whole parameters.
struct GradPiece {
  int64_t begin, end;
  Tensor grad;  // undefined while nothing of it is written
};

struct FlatGroup {
  bool weight_decay = false;
  dist::ProcessGroup sync;  // over which its gradients are summed
  int64_t copies = 1;       // ranks of the world with equal copies
  bool scattered =
      false;  // ZeRO-2: after the sum this rank has its own range of the gradient alone
  std::vector<FlatSlot> slots;
  Tensor param;                   // (n), weights in the run's dtype
  DType grad_dtype = DType::f32;  // f32 or wider; bf16 where states are kept in bf16
  Tensor grad;                    // (n); undefined where gradients are brief
  std::vector<GradPiece> pieces;  // of a brief gradient

  // The part of a tensor of this group's size that belongs to one parameter, in its shape.
  Tensor view(const Tensor& flat, const FlatSlot& slot) const;
  // The gradient as it lies: its pieces, or one that is all of it.
  std::vector<GradPiece> grads() const;
};

class FlatBuffers {
 public:
  // Moves the module's parameters into flat buffers (values are kept). Gradients of bf16 weights
  // are kept in f32, or in bf16 too when `narrow`.
  //   mesh  the ranks that train the module; null: this one
  //   piece_bytes  of brief gradients, about; 0: gradients are there all the time
  explicit FlatBuffers(nn::Module& module, bool narrow = false, const dist::Mesh* mesh = nullptr,
                       int64_t piece_bytes = 0);
  FlatBuffers(const FlatBuffers&) = delete;
  FlatBuffers& operator=(const FlatBuffers&) = delete;

  std::vector<FlatGroup>& groups() { return groups_; }
  const std::vector<FlatGroup>& groups() const { return groups_; }
  // The next backward overwrites all gradients.
  void reset_grads();
  // Gives up the memory of brief gradients.
  void drop_grads();
  // What they take together, all written; 0 where gradients are there all the time.
  int64_t brief_bytes() const;
  // After the last backward of a step: parameters that no loss reached have gradient zero.
  void finish_grads();
  // The ranges that other ranks have of scattered gradients, for who wants to look at all of them.
  void gather_grads();
  // The sum of squares of each group's gradients, or of each piece, summed in a fixed order; of
  // many ranks every element of the model counts once.   squares (sums_of_squares()) f64
  void sum_squares(const Tensor& squares) const;
  // From now on the sums are those of each parameter and expert: they do not depend on the layout.
  void square_by_parameter() { by_parameter_ = true; }
  int64_t sums_of_squares() const;

 private:
  void square_parameters(const Tensor& squares) const;
  void cut_grad(size_t group, int64_t piece_bytes);
  void make_piece(size_t group, size_t piece);

  std::vector<FlatGroup> groups_;
  dist::ProcessGroup world_;
  // Of every parameter of the whole model, where its first sum of squares is.
  std::map<const nn::Parameter*, int64_t> first_square_;
  int64_t squares_ = 0;
  bool by_parameter_ = false;
};

}  // namespace pyramoe::train
