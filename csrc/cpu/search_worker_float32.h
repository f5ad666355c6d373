// The screens in bfloat16 and float32: first all rows, then, with a threshold, those with rivals.
#pragma once

#include "search_worker.h"

namespace {

template <class T, Metric M>
template <bool kHalf>
void Worker<T, M>::first_pass(const Pending* rows, int64_t count) {
  const int64_t steps = kHalf ? (width_ + 1) / 2 : width_, ld = kHalf ? padded_pairs(width_) / 2 : ld_;
  const float* panels = kHalf ? (const float*)codes_.half : codes_.panel;
  prepare<kHalf>(rows, count);
  if (!kHalf) float_rows_ += count;
  for (int64_t n = 0; n < groups(count) * kPoints; n++) {
    for (int j = 0; j < Floats::kLanes; j++) {
      best_[n].best[j] = best_[n].second[j] = best_[n].now[j] = -__builtin_inff();
      best_[n].panel[j] = 0;
    }
  }
  const bool spans = steps <= kSpanSteps && codes_.ordinary >= kSpanPanels;
  (spans ? screen<kHalf, kSpan> : screen<kHalf, 1>)(screened_, ld, groups(count), panels, codes_.bias, steps, 0,
                                                    codes_.ordinary, best_);
  double low[kMaxBlock], span[kMaxBlock];
  float limit[kMaxBlock], most[kMaxBlock];
  bool odd[kMaxBlock] = {false};
  for (int64_t n = 0; n < count; n++) most[n] = Floats::top(Floats::load(best_[n].best));
  for (int64_t n = 0; n < count; n++) {
    span[n] = window<kHalf>(n, codes_.radius_max, codes_.error_max);
    low[n] = most[n] - span[n];
    limit[n] = below(low[n] - span[n]);
  }
  for (int64_t p = codes_.ordinary; p < codes_.panels; p++) {
    for (int g = 0; g < groups(count); g++) {
      float scores[kPoints][Floats::kLanes];
      best_of_panel<kHalf>(screened_ + g * kPoints * ld, ld, panels + p * steps * kPanel, codes_.bias + p * kPanel, steps,
                           scores);
      for (int64_t n = g * kPoints; n < count && n < (g + 1) * kPoints; n++) {
        const Floats::V limit = Floats::set(below(low[n] - window<kHalf>(n, codes_.radius[p], codes_.error[p])));
        odd[n] |= Floats::at_least(Floats::load(scores[n - g * kPoints]), limit) != 0;
      }
    }
  }
  for (int64_t n = 0; n < count; n++) {
    if (!settled_[n]) settle<kHalf>(n, {rows[n].row, low[n]}, span[n], Floats::set(limit[n]), odd[n], spans);
  }
}

// Evaluates the candidates of a screened row, or hands it on.
template <class T, Metric M>
template <bool kHalf>
void Worker<T, M>::settle(int64_t n, Pending row, double span, Floats::V limit, bool odd, bool spans) {
  const Best& best = best_[n];
  int rivals = __builtin_popcount(Floats::at_least(Floats::load(best.second), limit));
  if (rivals && is_near(n, span)) rivals = 0;
  unsigned lanes = Floats::at_least(Floats::load(best.best), limit);
  if (kHalf && (odd || rivals)) {
    redone_++;
    return to_float_.add(row);
  }
  if (!kHalf && (odd || rivals)) {
    if (rivals > Floats::kLanes / 4) {
      doubled_++;
      return to_double_.add(row);
    }
    threshold_++;
    return to_threshold_.add(row);
  }
  double least = __builtin_inf();
  int64_t code = INT64_MAX;
  for (; lanes; lanes &= lanes - 1) {
    const int lane = __builtin_ctz(lanes);
    const int64_t panel = best.panel[lane];
    if (spans) {
      consider_span<kHalf>(n, panel, lane, limit, least, code);
    } else {
      for (int j = lane; j < kPanel; j += Floats::kLanes) consider_slot(n, panel * kPanel + j, least, code);
    }
  }
  finish(n, row.row, least, code);
}

// Evaluates the codes of one lane in a span of panels that score high enough.
template <class T, Metric M>
template <bool kHalf>
void Worker<T, M>::consider_span(int64_t n, int64_t first, int lane, Floats::V limit, double& least, int64_t& code) {
  const int64_t steps = kHalf ? (width_ + 1) / 2 : width_, ld = kHalf ? padded_pairs(width_) / 2 : ld_;
  const int64_t last = first + kSpan < codes_.ordinary ? first + kSpan : codes_.ordinary;
  const float *x = screened_ + n * ld, *panels = kHalf ? (const float*)codes_.half : codes_.panel;
  uint64_t own = 0, above[kSpan];
  for (int j = lane; j < kPanel; j += Floats::kLanes) own |= (uint64_t)1 << j;
  for (int64_t p = first; p < last; p++) {
    const float *panel = panels + p * steps * kPanel, *bias = codes_.bias + p * kPanel;
    above[p - first] = own & (steps == 8   ? codes_above<kHalf, 8>(x, panel, bias, steps, limit)
                              : steps == 4 ? codes_above<kHalf, 4>(x, panel, bias, steps, limit)
                                           : codes_above<kHalf, 0>(x, panel, bias, steps, limit));
  }
  for (int64_t p = first; p < last; p++) {
    for (uint64_t rest = above[p - first]; rest; rest &= rest - 1) {
      consider_slot(n, p * kPanel + __builtin_ctzll(rest), least, code);
    }
  }
}

// Scores again, with the same arithmetic as the first float32 pass; evaluates every code that can be nearest.
template <class T, Metric M>
void Worker<T, M>::threshold32(const Pending* rows, int64_t count) {
  prepare<false>(rows, count);
  double least[kMaxBlock];
  int64_t code[kMaxBlock];
  float ordinary[kMaxBlock + kPoints], limits[kPoints];
  for (int64_t n = 0; n < kMaxBlock; n++) least[n] = __builtin_inf(), code[n] = INT64_MAX;
  for (int64_t n = 0; n < groups(count) * kPoints; n++) {
    ordinary[n] = n < count ? below(rows[n].low - window<false>(n, codes_.radius_max, 0)) : __builtin_inff();
  }
  for (int64_t p = 0; p < codes_.panels; p++) {
    for (int g = 0; g < groups(count); g++) {
      const int64_t first = g * kPoints;
      for (int i = 0; i < kPoints; i++) {
        limits[i] = p < codes_.ordinary || first + i >= count
                        ? ordinary[first + i]
                        : below(rows[first + i].low - window<false>(first + i, codes_.radius[p], 0));
      }
      float scores[kPoints][kPanel];
      unsigned above = scores_above(screened_ + first * ld_, ld_, codes_.panel + p * width_ * kPanel,
                                    codes_.bias + p * kPanel, width_, limits, scores);
      for (; above; above &= above - 1) {
        const int i = __builtin_ctz(above);
        for (int j = 0; j < kPanel; j++) {
          if (scores[i][j] >= limits[i]) consider_slot(first + i, p * kPanel + j, least[first + i], code[first + i]);
        }
      }
    }
  }
  for (int64_t n = 0; n < count; n++) {
    if (!settled_[n]) finish(n, rows[n].row, least[n], code[n]);
  }
}

}  // namespace
