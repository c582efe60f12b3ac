// What is done to experts that move (train/expert_moves.h): measuring, merging, splitting. All on
// the device, expert by expert, in fixed order.
#include <cmath>
#include <map>

#include "core/kernels/elementwise.h"
#include "core/kernels/reduce.h"
#include "core/rng.h"
#include "train/expert_moves.h"

namespace pyramoe::train {
namespace {

constexpr double kSpread = 0.1;  // of a router row's size, to either side

Tensor row_of(const Tensor& all, int64_t slot) { return all.rows(slot, slot + 1); }

double sum_of(const Tensor& x) {
  Tensor sum({1}, DType::f64, x.device());
  kernels::sum_all(x, sum);
  return sum.item();
}

// sum v x^2
double weighted_squares(const Tensor& v, const Tensor& x) {
  Tensor squares = empty_like(x);
  kernels::multiply(x, x, squares);
  kernels::multiply(squares, v, squares);
  return sum_of(squares);
}

Tensor difference(const Tensor& a, const Tensor& b) {
  Tensor d = empty_like(a);
  kernels::scale(b, -1, d);
  kernels::add(d, a, d);
  return d;
}

// y = share * a + (1 - share) * b, into a's memory.
void mix_into(Tensor a, const Tensor& b, double share) {
  Tensor part = empty_like(b);
  kernels::scale(b, 1 - share, part);
  kernels::scale(a, share, a);
  kernels::add(a, part, a);
}

void add_into(Tensor a, const Tensor& b) { kernels::add(a, b, a); }
void halve(Tensor a) { kernels::scale(a, 0.5, a); }

// The weights that the model computes with follow those that are updated.
void round_value(const ExpertPiece& piece, int64_t slot) {
  if (piece.value.same_memory(piece.wide)) return;
  row_of(piece.value, slot).copy_from(row_of(piece.wide, slot).to(piece.value.dtype()));
}

void merge_piece(const ExpertPiece& piece, int64_t kept, int64_t freed, double share) {
  mix_into(row_of(piece.wide, kept), row_of(piece.wide, freed), share);
  for (const Tensor& moment : {piece.m, piece.v}) {
    add_into(row_of(moment, kept), row_of(moment, freed));
    row_of(moment, freed).zero();
  }
  round_value(piece, kept);
}

void split_piece(const ExpertPiece& piece, int64_t split, int64_t born) {
  row_of(piece.wide, born).copy_from(row_of(piece.wide, split));
  for (const Tensor& moment : {piece.m, piece.v}) {
    halve(row_of(moment, split));
    row_of(moment, born).copy_from(row_of(moment, split));
  }
  round_value(piece, born);
}

// Noise of a tenth of the row's root mean square, added to one half and taken from the other.
void part_rows(const ExpertPiece& rows, int64_t split, int64_t born, const RngKey& key) {
  const Tensor parent = row_of(rows.wide, split);
  std::vector<double> plus = parent.to_vector(), minus = plus;
  double squares = 0;
  for (const double w : plus) squares += w * w;
  const double size = kSpread * std::sqrt(squares / static_cast<double>(plus.size()));
  const auto first = static_cast<uint64_t>(born) * plus.size();
  for (size_t i = 0; i < plus.size(); ++i) {
    const double noise = size * random_normal(key, first + i);
    plus[i] += noise;
    minus[i] -= noise;
  }
  const auto write = [&](const std::vector<double>& values, int64_t slot) {
    const Tensor wide = Tensor::from(values, parent.shape());
    row_of(rows.wide, slot).copy_from(wide.to(parent.dtype()));
    round_value(rows, slot);
  };
  write(plus, split);
  write(minus, born);
}

}  // namespace

std::vector<ExpertLayer> expert_layers(nn::Gpt& model, const std::vector<nn::NamedTensor>& state) {
  std::map<std::string, Tensor> kept;
  for (const nn::NamedTensor& tensor : state) kept[tensor.name] = tensor.value;
  std::vector<ExpertLayer> layers;
  for (const moe::MoeLayerRef& ref : moe::moe_layers(model)) {
    ExpertLayer layer;
    layer.block = ref.layer;
    layer.router = &ref.moe->router();
    const std::string block = cat("blocks.", ref.layer, ".");
    for (const nn::Parameter* p : model.parameters()) {
      if (!p->name.starts_with(block)) continue;
      const bool router = p->name.ends_with(".router.weight");
      if (!router && p->name.find(".experts.") == std::string::npos) continue;
      ExpertPiece piece{p->name, p->var.value(), p->var.value(), kept["m." + p->name],
                        kept["v." + p->name]};
      PM_CHECK(piece.m.defined() && piece.v.defined(), "expert_layers: no moments of ", p->name);
      if (kept.count("master." + p->name)) piece.wide = kept["master." + p->name];
      if (router)
        layer.rows = piece;
      else
        layer.experts.push_back(piece);
    }
    layers.push_back(std::move(layer));
  }
  return layers;
}

double importance(const ExpertLayer& layer, int64_t slot) {
  double sum = 0;
  for (const ExpertPiece& piece : layer.experts) {
    sum += weighted_squares(row_of(piece.v, slot), row_of(piece.wide, slot));
  }
  return sum;
}

MergeCost merge_cost(const ExpertLayer& layer, int64_t kept, int64_t other) {
  double a = 0, b = 0;
  for (const ExpertPiece& piece : layer.experts) {
    const Tensor d = difference(row_of(piece.wide, kept), row_of(piece.wide, other));
    a += weighted_squares(row_of(piece.v, kept), d);
    b += weighted_squares(row_of(piece.v, other), d);
  }
  if (!(a + b > 0)) return {};
  return {a * b / (a + b), a / (a + b)};
}

void merge_experts(const ExpertLayer& layer, int64_t kept, int64_t freed, double share) {
  for (const ExpertPiece& piece : layer.experts) merge_piece(piece, kept, freed, share);
  merge_piece(layer.rows, kept, freed, share);
  layer.router->set_live(freed, false);
}

void split_expert(const ExpertLayer& layer, int64_t split, int64_t born, const RngKey& key) {
  for (const ExpertPiece& piece : layer.experts) split_piece(piece, split, born);
  split_piece(layer.rows, split, born);
  part_rows(layer.rows, split, born, key);
  layer.router->set_live(born, true);
}

}  // namespace pyramoe::train
