// The micro-kernels: scores of a few rows against a panel of codes, kept in registers.
#pragma once

#include "search.h"

namespace {

constexpr int kPoints = Floats::kPoints;
constexpr int kPanel = Floats::kVectors * Floats::kLanes;       // codes in a panel
constexpr int kPanel64 = Doubles::kVectors * Doubles::kLanes;   // codes in a float64 tile; divides kPanel

// What a screen keeps of a row: per lane the best score, the panel (or span of panels) it is from, and the best score
// of the other panels (or spans); of the span at hand the best score so far. Which of a lane's codes in a panel or span
// was best is not kept: those that could be are looked for.
struct alignas(64) Best {
  float best[Floats::kLanes], second[Floats::kLanes], now[Floats::kLanes];
  int32_t panel[Floats::kLanes];
};

// tile[i][j] = bias + sum over d of x[i][d] * panel[d][codes of vector j]. Half: words are pairs of bfloat16.
// kSteps: number of words where the compiler should know it, else 0.
template <bool kHalf, int kSteps>
VTP_INLINE void scores(const float* x, int64_t ld, const float* panel, const float* bias, int64_t given,
                       Floats::V (&tile)[kPoints][Floats::kVectors]) {
  using F = Floats;
  const int64_t steps = kSteps ? kSteps : given;
#pragma GCC unroll 4
  for (int j = 0; j < F::kVectors; j++) {
    const F::V start = F::load(bias + j * F::kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < kPoints; i++) tile[i][j] = start;
  }
#pragma GCC unroll 8
  for (int64_t d = 0; d < steps; d++) {
    const float* codes = panel + d * kPanel;
    F::V c[F::kVectors];
    if (!kSteps) {
      for (int j = 0; j < kPanel; j += 16) __builtin_prefetch(codes + 16 * kPanel + j);
    }
#pragma GCC unroll 4
    for (int j = 0; j < F::kVectors; j++) c[j] = F::load(codes + j * F::kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < kPoints; i++) {
      const F::V v = F::set(x[i * ld + d]);
#pragma GCC unroll 4
      for (int j = 0; j < F::kVectors; j++) {
        tile[i][j] = kHalf ? Halves::dot(tile[i][j], v, c[j]) : F::fma(v, c[j], tile[i][j]);
      }
    }
  }
}

VTP_INLINE Floats::V largest(const Floats::V (&row)[Floats::kVectors]) {
  Floats::V most = row[0];
#pragma GCC unroll 4
  for (int j = 1; j < Floats::kVectors; j++) most = Floats::max(most, row[j]);
  return most;
}

// A row's best scores of a panel or span, per lane, join what is kept of it.
VTP_INLINE void join(Best& row, Floats::V now, int64_t from) {
  using F = Floats;
  const F::V old = F::load(row.best);
  F::mark(row.panel, now, old, (int32_t)from);
  F::store(row.best, F::max(now, old));
  F::store(row.second, F::max(F::load(row.second), F::min(now, old)));
}

// Screens `groups` groups of rows against panels [first, last). Scores join what is kept once every kSpan panels, from
// `first` on: at small widths that costs as much as a third of the products.
template <bool kHalf, int kSteps, int kSpan>
void screen_steps(const float* x, int64_t ld, int groups, const float* panels, const float* biases, int64_t steps,
                  int64_t first, int64_t last, Best* best) {
  using F = Floats;
  for (int64_t p = first; p < last; p++) {
    for (int g = 0; g < groups; g++) {
      F::V tile[kPoints][F::kVectors];
      scores<kHalf, kSteps>(x + g * kPoints * ld, ld, panels + p * steps * kPanel, biases + p * kPanel, steps, tile);
#pragma GCC unroll 6
      for (int i = 0; i < kPoints; i++) {
        Best& row = best[g * kPoints + i];
        const F::V most = largest(tile[i]);
        if (kSpan == 1) {
          join(row, most, p);
        } else {
          F::store(row.now, F::max(most, F::load(row.now)));
        }
      }
    }
    if (kSpan == 1 || ((p - first + 1) % kSpan != 0 && p + 1 < last)) continue;
    for (int n = 0; n < groups * kPoints; n++) {
      join(best[n], F::load(best[n].now), first + (p - first) / kSpan * kSpan);
      F::store(best[n].now, F::set(-__builtin_inff()));
    }
  }
}

template <bool kHalf, int kSpan>
void screen(const float* x, int64_t ld, int groups, const float* panels, const float* biases, int64_t steps,
            int64_t first, int64_t last, Best* best) {
#define VTP_SEARCH_STEPS(n) screen_steps<kHalf, n, kSpan>(x, ld, groups, panels, biases, steps, first, last, best)
  switch (steps) {
    case 4: return VTP_SEARCH_STEPS(4);
    case 8: return VTP_SEARCH_STEPS(8);
    case 16: return VTP_SEARCH_STEPS(16);
    case 32: return VTP_SEARCH_STEPS(32);
    default: return VTP_SEARCH_STEPS(0);
  }
#undef VTP_SEARCH_STEPS
}

// Which codes of a panel (bits) score `limit` or more for one row.
template <bool kHalf, int kSteps>
VTP_INLINE uint64_t codes_above(const float* x, const float* panel, const float* bias, int64_t given, Floats::V limit) {
  using F = Floats;
  const int64_t steps = kSteps ? kSteps : given;
  F::V sums[F::kVectors];
#pragma GCC unroll 4
  for (int j = 0; j < F::kVectors; j++) sums[j] = F::load(bias + j * F::kLanes);
#pragma GCC unroll 8
  for (int64_t d = 0; d < steps; d++) {
    const F::V v = F::set(x[d]);
#pragma GCC unroll 4
    for (int j = 0; j < F::kVectors; j++) {
      const F::V c = F::load(panel + d * kPanel + j * F::kLanes);
      sums[j] = kHalf ? Halves::dot(sums[j], v, c) : F::fma(v, c, sums[j]);
    }
  }
  uint64_t above = 0;
#pragma GCC unroll 4
  for (int j = 0; j < F::kVectors; j++) above |= (uint64_t)F::at_least(sums[j], limit) << (j * F::kLanes);
  return above;
}

// The best score of each lane of one panel, for the rows of one group: out[i][lane].
template <bool kHalf>
void best_of_panel(const float* x, int64_t ld, const float* panel, const float* bias, int64_t steps,
                   float (&out)[kPoints][Floats::kLanes]) {
  Floats::V tile[kPoints][Floats::kVectors];
  scores<kHalf, 0>(x, ld, panel, bias, steps, tile);
  for (int i = 0; i < kPoints; i++) Floats::store(out[i], largest(tile[i]));
}

// All scores of one panel for the rows of one group, and which rows (bits) have one at or above their limit.
static unsigned scores_above(const float* x, int64_t ld, const float* panel, const float* bias, int64_t steps,
                             const float* limits, float (&out)[kPoints][kPanel]) {
  using F = Floats;
  F::V tile[kPoints][F::kVectors];
  scores<false, 0>(x, ld, panel, bias, steps, tile);
  unsigned above = 0;
#pragma GCC unroll 6
  for (int i = 0; i < kPoints; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < F::kVectors; j++) F::store(out[i] + j * F::kLanes, tile[i][j]);
    if (F::at_least(largest(tile[i]), F::set(limits[i]))) above |= 1u << i;
  }
  return above;
}

// The same in float64, over one stretch of places at a time: `out` carries the sums from stretch to stretch, `bias`
// and limits count in the last.
template <bool kFirst, bool kLast>
unsigned scores64_above(const double* x, int64_t ld, const double* columns, const double* bias, int64_t steps,
                        const double* limits, double (&out)[kPoints][kPanel64]) {
  using F = Doubles;
  F::V tile[kPoints][F::kVectors];
#pragma GCC unroll 6
  for (int i = 0; i < kPoints; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < F::kVectors; j++) {
      tile[i][j] = !kFirst ? F::load(out[i] + j * F::kLanes) : kLast ? F::load(bias + j * F::kLanes) : F::set(0);
    }
  }
#pragma GCC unroll 8
  for (int64_t d = 0; d < steps; d++) {
    F::V c[F::kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < F::kVectors; j++) c[j] = F::load(columns + d * kPanel64 + j * F::kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < kPoints; i++) {
      const F::V v = F::set(x[i * ld + d]);
#pragma GCC unroll 4
      for (int j = 0; j < F::kVectors; j++) tile[i][j] = F::fma(v, c[j], tile[i][j]);
    }
  }
  unsigned above = 0;
#pragma GCC unroll 6
  for (int i = 0; i < kPoints; i++) {
    F::V most = tile[i][0];
#pragma GCC unroll 4
    for (int j = 0; j < F::kVectors; j++) {
      if (kLast && !kFirst) tile[i][j] = F::add(tile[i][j], F::load(bias + j * F::kLanes));
      most = j ? F::max(most, tile[i][j]) : tile[i][j];
    }
    const bool hit = kLast && F::at_least(most, F::set(limits[i])) != 0;
    above |= (unsigned)hit << i;
    if (kLast && !hit) continue;
#pragma GCC unroll 4
    for (int j = 0; j < F::kVectors; j++) F::store(out[i] + j * F::kLanes, tile[i][j]);
  }
  return above;
}

}  // namespace
