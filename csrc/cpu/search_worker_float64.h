// The screen in float64, for rows whose nearest codes float32 can't tell apart; and the way into a worker.
#pragma once

#include "search_worker.h"
#include "search_worker_float32.h"

namespace {

// A little below `v`, more than the rounding of sums and limits.
VTP_INLINE double lowered(double v) {
  const double slack = 0x1p-48 * (v < 0 ? -v : v);
  return slack < 1e300 ? v - slack : v;
}

// Columns of codes [slot, slot + kPanel64) over places [from, from + steps): centred float64. Adds to -|c'|^2 / 2.
template <class T, Metric M>
void Worker<T, M>::columns64(int64_t slot, int64_t from, int64_t steps, double* bias) {
  Codes part = codes_;
  part.width = steps;
  part.centre += from;
  if (part.factor) part.factor += from;
  const int64_t ld = kStretch + 8;
  for (int j = 0; j < kPanel64; j++) {
    const int64_t k = codes_.slots[slot + j];
    double* strip = strips_ + j * ld;
    if (k < 0) {
      memset(strip, 0, (size_t)steps * sizeof(double));
      bias[j] = -__builtin_inf();
      continue;
    }
    const Direction u = M == Metric::cosine ? Direction{codes_.prescale[k], codes_.inverse[k]} : Direction{1, 1};
    bias[j] -= 0.5 * Shape::centre(part, (const T*)job_.code_rows + k * width_ + from, u, strip, (steps + 7) / 8 * 8);
  }
  for (int64_t d = 0; d < steps; d++) {
    for (int j = 0; j < kPanel64; j++) columns_[d * kPanel64 + j] = strips_[j * ld + d];
  }
}

// A float64 screen of blocks, for rows whose nearest codes float32 can't tell apart. Its limits rise while it runs.
template <class T, Metric M>
void Worker<T, M>::threshold64(const Pending* rows, int64_t count) {
  Rising rising[kMaxBlock64];
  double limits[kMaxBlock64 + kPoints];
  double* screened = (double*)screened_;
  fetch(rows, count);
  for (int64_t n = 0; n < count; n++) {
    double* out = screened + n * ld64_;
    const double square = Shape::centre(codes_, row_[n], unit_[n], out, ld64_);
    const bool settled = !(square < 1e300) || unit_[n].inverse == 0;
    const double norm = __builtin_sqrt(square) * 1.000001 + 1e-150;
    rising[n] = {norm, window64(norm, codes_.radius_max), rows[n].low, __builtin_inf(), INT64_MAX, settled};
    limits[n] = settled ? __builtin_inf() : lowered(rows[n].low - rising[n].span);
    if (!settled) continue;
    compare_all(n, rows[n].row);
    memset(out, 0, (size_t)ld64_ * sizeof(double));
  }
  for (int64_t n = count; n < groups(count) * kPoints; n++) {
    memset(screened + n * ld64_, 0, (size_t)ld64_ * sizeof(double));
    limits[n] = __builtin_inf();
  }
  for (int64_t slot = 0; slot < codes_.panels * kPanel; slot += kPanel64) {
    double bias[kPanel64] = {0}, own[kPoints];
    for (int64_t from = 0; from < width_; from += kStretch) {
      const int64_t steps = width_ - from < kStretch ? width_ - from : kStretch;
      columns64(slot, from, steps, bias);
      for (int g = 0; g < groups(count); g++) {
        const int64_t first = g * kPoints;
        const double* limit = limits + first;
        if (slot >= codes_.ordinary * kPanel) {
          const double radius = codes_.radius[slot / kPanel];
          for (int i = 0; i < kPoints; i++) own[i] = odd_limit(rising[first + i], radius, first + i < count);
          limit = own;
        }
        unsigned above = above64(screened + first * ld64_ + from, bias, from, steps, limit, tiles_[g].score);
        for (; above; above &= above - 1) {
          const int i = __builtin_ctz(above);
          Rising& r = rising[first + i];
          const double radius = codes_.radius[slot / kPanel];
          const double span = slot < codes_.ordinary * kPanel ? r.span : window64(r.norm, radius);
          candidates64(first + i, slot, tiles_[g].score[i], span, r);
          limits[first + i] = lowered(r.low - r.span);
        }
      }
    }
  }
  for (int64_t n = 0; n < count; n++) {
    if (!rising[n].settled) finish(n, rows[n].row, rising[n].least, rising[n].code);
  }
}

template <class T, Metric M>
unsigned Worker<T, M>::above64(const double* x, const double* bias, int64_t from, int64_t steps, const double* limits,
                 double (&score)[kPoints][kPanel64]) {
  const bool first = from == 0, last = from + steps == width_;
  if (first && last) return scores64_above<true, true>(x, ld64_, columns_, bias, steps, limits, score);
  if (first) return scores64_above<true, false>(x, ld64_, columns_, bias, steps, limits, score);
  if (last) return scores64_above<false, true>(x, ld64_, columns_, bias, steps, limits, score);
  return scores64_above<false, false>(x, ld64_, columns_, bias, steps, limits, score);
}

template <class T, Metric M>
double Worker<T, M>::odd_limit(const Rising& r, double radius, bool used) const {
  return !used || r.settled ? __builtin_inf() : lowered(r.low - window64(r.norm, radius));
}

template <class T, Metric M>
void Worker<T, M>::candidates64(int64_t n, int64_t slot, const double* score, double span, Rising& r) {
  double top = score[0];
  for (int j = 1; j < kPanel64; j++) top = score[j] > top ? score[j] : top;
  if (top - span > r.low) r.low = top - span;
  const double limit = lowered(r.low - span);
  for (int j = 0; j < kPanel64; j++) {
    if (score[j] >= limit) consider_slot(n, slot + j, r.least, r.code);
  }
}

template <class T, Metric M>
void search_as(const Job& job, void* scratch) {
  Worker<T, M>(job, scratch).run();
}

template <class T, Metric M>
size_t scratch_as(const Job& job) {
  return Worker<T, M>::scratch(job);
}

static void search_rows(const Job& job, void* scratch) {
  const PlainRounding rounding;
  VTP_SEARCH_DISPATCH(search_as, job.codes->wide, job.codes->metric, job, scratch)
}

static size_t search_scratch(const Job& job) {
  VTP_SEARCH_DISPATCH(scratch_as, job.codes->wide, job.codes->metric, job)
  return 0;
}

}  // namespace
