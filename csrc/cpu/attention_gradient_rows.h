// Gradient panels back to the caller's tensors, through rotation and norm.
#pragma once
#include "attention_rows.h"

namespace vtp {
namespace {

// One row: `panel` holds the gradient of the changed row, `row` the row as it came; `sums` collects the
// weight's.
template <bool bf16, class W>
static VTP_INLINE void gradient_even(const float* panel, const char* row, const Change& change, int token,
                                     W width, char* gradient, Reg* sums) {
  Row<bf16, W> x(width);
  Reg g[W::most / Vector::lanes];
#pragma GCC unroll 16
  for (int j = 0; j < x.count; j++) g[j] = Vector::load(panel + j * Vector::lanes);
  if (change.cosine && token >= change.still) {
    if (change.tables_bf16)
      x.template turn_back<true>(g, change, token);
    else
      x.template turn_back<false>(g, change, token);
  }
  if (change.norm) {
    x.load(row, change);
    const Reg inverse = Vector::all(x.inverse);
    Reg dot = Vector::zero();
#pragma GCC unroll 16
    for (int j = 0; j < x.count; j++) {
      sums[j] = Vector::fma(g[j], Vector::mul(x.at[j], inverse), sums[j]);
      g[j] = Vector::mul(g[j], Vector::load(change.norm + j * Vector::lanes));
      dot = Vector::fma(g[j], x.at[j], dot);
    }
    const float cube = x.inverse * x.inverse * x.inverse;
    const Reg along = Vector::all(Vector::sum(dot) * (1.f / width.floats()) * cube);
#pragma GCC unroll 16
    for (int j = 0; j < x.count; j++) g[j] = Vector::fnma(x.at[j], along, Vector::mul(g[j], inverse));
  }
#pragma GCC unroll 16
  for (int j = 0; j < x.count; j++) store_row<bf16>(gradient, j * Vector::lanes, g[j]);
}

// The same for any width; `g` is overwritten.
template <bool bf16>
static inline void gradient_any(float* g, const char* row, const Change& change, int token, int width,
                                float* sums) {
  if (change.cosine && token >= change.still) {
    const Turn turn(change, token, width);
    for (int d = 0; d < width / 2; d++) {
      const int e = d + width / 2;
      const float a = g[d], b = g[e];
      g[d] = a * turn.cosine(d) + b * turn.sine(e);
      g[e] = b * turn.cosine(e) - a * turn.sine(d);
    }
  }
  if (!change.norm) return;
  alignas(64) float x[max_width];
  row_to_floats<bf16>(row, width, width, x);
  const float inverse = inverse_rms_of(x, width, change.eps);
  float dot = 0.f;
  for (int d = 0; d < width; d++) {
    sums[d] += g[d] * (x[d] * inverse);
    g[d] *= change.norm[d];
    dot += g[d] * x[d];
  }
  const float along = dot * (1.f / width) * inverse * inverse * inverse;
  for (int d = 0; d < width; d++) g[d] = g[d] * inverse - x[d] * along;
}

// Float panel of gradients of the changed rows -> gradients of `rows`; norm_gradient (width,) is written if
// there is a norm.
template <bool bf16, class W>
static void store_gradient(float* panel, const char* rows, int64_t stride, int count, const Change& change,
                           int width, W padded, char* gradient, int64_t gradient_stride,
                           float* norm_gradient) {
  const int bytes = width * (bf16 ? 2 : 4);
  alignas(64) float sums[max_width] = {0.f};
  Reg even_sums[W::most / Vector::lanes];
  for (int j = 0; j < padded.floats() / Vector::lanes; j++) even_sums[j] = Vector::zero();
  for (int i = 0; i < count; i++, panel += padded.floats(), rows += stride, gradient += gradient_stride) {
    prefetch(gradient, gradient_stride, bytes);
    if (change.norm) prefetch(rows, stride, bytes);
    if (padded.even()) {
      gradient_even<bf16>(panel, rows, change, i, padded, gradient, even_sums);
    } else {
      gradient_any<bf16>(panel, rows, change, i, width, sums);
      floats_to_row<bf16>(panel, width, gradient);
    }
  }
  if (!change.norm) return;
  if (padded.even())
    for (int j = 0; j < padded.floats() / Vector::lanes; j++)
      Vector::store(sums + j * Vector::lanes, even_sums[j]);
  memcpy(norm_gradient, sums, width * 4);
}

}  // namespace
}  // namespace vtp
