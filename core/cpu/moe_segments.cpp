// Twins that move tokens to segments and back, the dense one-hot form, and the residual mix.
//
// Work is cut over tokens in both directions: a segment row belongs to one token, so nobody writes
// where another writes, and a token's rows are added in the order of its choices.
#include "core/cpu/pack.h"
#include "core/kernels/cast.h"
#include "core/kernels/elementwise.h"
#include "core/kernels/moe.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {
namespace {

// Tokens in one piece of work: enough rows to be worth a hand-over, few enough to share.
int64_t token_grain(int64_t d) { return std::max<int64_t>(1, kGrain / (d + 1)); }

template <class F>
void each_token(int64_t tokens, int64_t d, const F& f) {
  parallel_for(tokens, token_grain(d), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) f(n);
  });
}

template <class T>
Acc<T> dot(const T* a, const T* b, int64_t d) {
  using A = Acc<T>;
  return sum_packs<A>(0, d, [=](auto at) { return load(a, at) * load(b, at); });
}

void check_rows(const char* name, const Tensor& tokens, const Tensor& segments, const Tensor& row) {
  PM_CHECK(tokens.dim(0) == row.dim(0) && tokens.dim(1) == segments.dim(1), name, ": tokens ",
           to_string(tokens.shape()), ", segments ", to_string(segments.shape()), ", rows ",
           to_string(row.shape()));
}

}  // namespace

void to_segments_forward(const Tensor& x, const Tensor& row, Tensor& y) {
  check_rows("to_segments", x, y, row);
  const int64_t d = x.dim(1), k = row.dim(1);
  const int32_t* pr = row.data<int32_t>();
  visit_floating(x.dtype(), [&]<class T>() {
    const T* px = x.data<T>();
    T* py = y.data<T>();
    each_token(x.dim(0), d, [=](int64_t n) {
      for (int64_t j = n * k; j < (n + 1) * k; ++j) {
        if (pr[j] >= 0) std::copy_n(px + n * d, d, py + pr[j] * d);
      }
    });
  });
}

void to_segments_backward(const Tensor& dy, const Tensor& row, Tensor& dx) {
  check_rows("to_segments", dx, dy, row);
  const int64_t d = dx.dim(1), k = row.dim(1);
  const int32_t* pr = row.data<int32_t>();
  visit_floating(dx.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T* pdy = dy.data<T>();
    T* pdx = dx.data<T>();
    each_token(dx.dim(0), d, [=](int64_t n) {
      const int32_t* rows = pr + n * k;
      each_pack<A>(0, d, [=](auto at) {
        Pack<A> sum{};
        for (int64_t j = 0; j < k; ++j) {
          if (rows[j] >= 0) sum += load(pdy + rows[j] * d, at);
        }
        store(pdx + n * d, at, sum);
      });
    });
  });
}

void from_segments_forward(const Tensor& x, const Tensor& weight, const Tensor& row, Tensor& y) {
  check_rows("from_segments", y, x, row);
  const int64_t d = y.dim(1), k = row.dim(1);
  const int32_t* pr = row.data<int32_t>();
  visit_floating(x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T* px = x.data<T>();
    const A* pw = weight.data<A>();
    T* py = y.data<T>();
    each_token(y.dim(0), d, [=](int64_t n) {
      const int32_t* rows = pr + n * k;
      each_pack<A>(0, d, [=](auto at) {
        Pack<A> sum{};
        for (int64_t j = 0; j < k; ++j) {
          if (rows[j] >= 0) sum += pw[n * k + j] * load(px + rows[j] * d, at);
        }
        store(py + n * d, at, sum);
      });
    });
  });
}

void from_segments_add_forward(const Tensor& x, const Tensor& weight, const Tensor& row,
                               const Tensor& residual, Tensor& y) {
  if (x.dtype() == weight.dtype()) {
    from_segments_forward(x, weight, row, y);
    add(residual, y, y);
    return;
  }
  Tensor wide_x(x.shape(), weight.dtype()), wide(y.shape(), weight.dtype());
  cast(x, wide_x);
  from_segments_forward(wide_x, weight, row, wide);
  accumulate(residual, wide);
  cast(wide, y);
}

void from_segments_backward(const Tensor& dy, const Tensor& x, const Tensor& weight,
                            const Tensor& row, Tensor& dx, Tensor& dweight) {
  check_rows("from_segments", dy, x, row);
  const int64_t d = dy.dim(1), k = row.dim(1);
  const int32_t* pr = row.data<int32_t>();
  visit_floating(x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T *pdy = dy.data<T>(), *px = x.data<T>();
    const A* pw = weight.data<A>();
    T* pdx = dx.data<T>();
    A* pdw = dweight.data<A>();
    each_token(dy.dim(0), d, [=](int64_t n) {
      const T* g = pdy + n * d;
      for (int64_t j = n * k; j < (n + 1) * k; ++j) {
        if (pr[j] < 0) {
          pdw[j] = 0;
          continue;
        }
        const T* in = px + pr[j] * d;
        T* out = pdx + pr[j] * d;
        each_pack<A>(0, d, [=](auto at) { store(out, at, pw[j] * load(g, at)); });
        pdw[j] = dot(g, in, d);
      }
    });
  });
}

void one_hot_forward(const Tensor& weight, const Tensor& slot, Tensor& y) {
  const int64_t width = y.dim(1), k = slot.dim(1);
  const int32_t* ps = slot.data<int32_t>();
  visit_floating(y.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const A* pw = weight.defined() ? weight.data<A>() : nullptr;
    T* py = y.data<T>();
    each_token(y.dim(0), width, [=](int64_t n) {
      std::fill(py + n * width, py + (n + 1) * width, T{});
      for (int64_t j = n * k; j < (n + 1) * k; ++j) {
        if (ps[j] >= 0) py[n * width + ps[j]] = static_cast<T>(pw ? pw[j] : A{1});
      }
    });
  });
}

void one_hot_backward(const Tensor& dy, const Tensor& slot, Tensor& dweight) {
  const int64_t width = dy.dim(1), k = slot.dim(1);
  const int32_t* ps = slot.data<int32_t>();
  visit_floating(dy.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T* pdy = dy.data<T>();
    A* pdw = dweight.data<A>();
    each_token(dy.dim(0), k, [=](int64_t n) {
      for (int64_t j = n * k; j < (n + 1) * k; ++j) {
        pdw[j] = ps[j] < 0 ? A{0} : static_cast<A>(pdy[n * width + ps[j]]);
      }
    });
  });
}

void mix_forward(const Tensor& a, const Tensor& b, const Tensor& share, Tensor& y) {
  PM_CHECK(a.shape() == b.shape() && share.shape() == (Shape{a.dim(0), 2}), "mix: a ",
           to_string(a.shape()), ", b ", to_string(b.shape()), ", share ",
           to_string(share.shape()));
  const int64_t d = a.dim(1);
  visit_floating(a.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T *pa = a.data<T>(), *pb = b.data<T>(), *ps = share.data<T>();
    T* py = y.data<T>();
    each_token(a.dim(0), d, [=](int64_t n) {
      const A c0 = static_cast<A>(ps[2 * n]), c1 = static_cast<A>(ps[2 * n + 1]);
      each_pack<A>(0, d, [=](auto at) {
        store(py + n * d, at, c0 * load(pa + n * d, at) + c1 * load(pb + n * d, at));
      });
    });
  });
}

void mix_backward(const Tensor& dy, const Tensor& a, const Tensor& b, const Tensor& share,
                  Tensor& da, Tensor& db, Tensor& dshare) {
  const int64_t d = a.dim(1);
  visit_floating(a.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T *pdy = dy.data<T>(), *pa = a.data<T>(), *pb = b.data<T>(), *ps = share.data<T>();
    T *pda = da.data<T>(), *pdb = db.data<T>(), *pds = dshare.data<T>();
    each_token(a.dim(0), d, [=](int64_t n) {
      const T* g = pdy + n * d;
      const A c0 = static_cast<A>(ps[2 * n]), c1 = static_cast<A>(ps[2 * n + 1]);
      each_pack<A>(0, d, [=](auto at) {
        store(pda + n * d, at, c0 * load(g, at));
        store(pdb + n * d, at, c1 * load(g, at));
      });
      pds[2 * n] = static_cast<T>(dot(g, pa + n * d, d));
      pds[2 * n + 1] = static_cast<T>(dot(g, pb + n * d, d));
    });
  });
}

}  // namespace pyramoe::kernels::cpu
