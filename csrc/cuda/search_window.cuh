// Which codes could be the nearest of a row, from rounded scores: the bound, and the list of candidates.
//
// With x', c' centred and scaled and x, c their rounded forms, the screens compute s = x . c - |c'|^2 / 2, which is
// larger the nearer the code. Against the exact score it is off by at most
//   |x' - x| |c| + |x'| |c' - c|            rounding of the operands, both measured in float64
//   + gamma (|x| |c| + |c'|^2 / 2)          sums in the screen's own arithmetic, whatever their order
//   + the rounding of |c'|^2 / 2 + (D + 16) 2^-50 (|x'| + |c'|)^2 + underflow      the definition's own rounding.
// `low` is the largest (score - bound) seen: a code whose score + bound is below it can't be the nearest.
#pragma once

#include "search_workspace.cuh"

namespace vtp::cuda {

// Relative error of a sum that tensor cores make, 16 products a step: they cut instead of rounding, each addend to 24
// bits of the largest. 3 / 2 of what was measured on hardware, doubled.
__device__ __forceinline__ float gamma_tensor(int padded_width) { return (3 * padded_width + 64) * 0x1p-23f; }
// Of a sum by fused multiply-adds in float32, doubled.
__device__ __forceinline__ float gamma_float(int padded_width) { return (padded_width + 32) * 0x1p-23f; }

constexpr float kLeast = -3.0e38f;
constexpr float kNoRow = 3.0e38f;  // a `low` that no score reaches

// Where the candidates of a row go.
struct Place {
  int* count;
  Candidate* list;
};

// The rows that a thread keeps in view: each row is shared by `Lanes` neighbouring lanes, and by no other warp.
template <int Rows, int Columns, int Lanes>
struct Window {
  float norm[Rows], residual[Rows], low[Rows];
  float gamma, definition, underflow;

  __device__ void begin(float sum_error, int width, float lost) {
    gamma = sum_error;
    definition = (width + 16) * 0x1p-50f;
    underflow = lost + width * 0x1p-120f;
    VTP_UNROLL
    for (int i = 0; i < Rows; ++i) low[i] = -INFINITY;
  }

  __device__ float bound(int i, const Panel& panel) const {
    const float all = norm[i] + residual[i] + panel.norm + panel.residual;
    const float operands = residual[i] * panel.norm + (norm[i] + residual[i]) * panel.residual;
    const float sums = gamma * (norm[i] * panel.norm + panel.bias);
    return (operands + sums + panel.slack + definition * all * all + underflow) * 1.0001f;
  }

  // What float32 loses when a bound is added to a score.
  __device__ static float fuzz(float score, float bound) { return (fabsf(score) + bound) * 0x1p-22f; }

  // Takes the scores of a panel: score(i, j) of row i and the thread's column j, code(j) its code, place(i) where the
  // row's candidates go. All lanes of a warp call it.
  template <class Score, class Code, class PlaceOf>
  __device__ void take(const Panel& panel, Score score, Code code, PlaceOf place) {
    float best[Rows], width[Rows];
    bool any = false;
    VTP_UNROLL
    for (int i = 0; i < Rows; ++i) {
      width[i] = bound(i, panel);
      float m = score(i, 0);
      VTP_UNROLL
      for (int j = 1; j < Columns; ++j) m = fmaxf(m, score(i, j));
      best[i] = m;
      any = any || m >= limit(i, width[i]);
    }
    if (!__any_sync(kFullWarp, any)) return;
    VTP_UNROLL
    for (int i = 0; i < Rows; ++i) {
      float m = best[i];
      VTP_UNROLL
      for (int lanes = 1; lanes < Lanes; lanes *= 2) m = fmaxf(m, __shfl_xor_sync(kFullWarp, m, lanes));
      low[i] = fmaxf(low[i], m - width[i] - fuzz(m, width[i]));
      if (!__any_sync(kFullWarp, best[i] >= limit(i, width[i]))) continue;
      append(i, width[i], score, code, place(i));
    }
  }

 private:
  __device__ float limit(int i, float bound) const { return fmaxf(low[i] - bound - fuzz(low[i], bound), kLeast); }

  template <class Score, class Code>
  __device__ void append(int i, float bound, Score score, Code code, Place place) {
    Candidate* const list = place.list;
    const float least = limit(i, bound);
    const int lane = static_cast<int>(threadIdx.x % Lanes);
    int found = 0;
    VTP_UNROLL
    for (int j = 0; j < Columns; ++j) found += score(i, j) >= least ? 1 : 0;
    int total = found, before = 0;
    VTP_UNROLL
    for (int lanes = 1; lanes < Lanes; lanes *= 2) {
      const int other = __shfl_xor_sync(kFullWarp, total, lanes);
      if ((lane & lanes) != 0) before += other;
      total += other;
    }
    int have = *place.count;
    __syncwarp();
    if (lane == 0 && have <= kListed && have + total > kListed) {  // drop what has fallen behind
      int kept = 0;
      for (int s = 0; s < have; ++s) {
        if (list[s].upper >= low[i]) list[kept++] = list[s];
      }
      *place.count = kept;
    }
    __syncwarp();
    have = *place.count;
    __syncwarp();
    const bool fits = have + total <= kListed;
    if (fits) {
      int slot = have + before;
      VTP_UNROLL
      for (int j = 0; j < Columns; ++j) {
        const float s = score(i, j);
        if (s >= least) list[slot++] = Candidate{code(j), s + bound + fuzz(s, bound)};
      }
    }
    if (lane == 0) *place.count = fits ? have + total : kListed + 1;  // more than the list holds: undecided from now on
    __syncwarp();
  }
};

// Marks a row as undecided, once whatever the split, and lists it.
__device__ __forceinline__ void mark(int* flag, int* list, int* count, int row) {
  if (atomicAdd(flag, 1) == 0) list[atomicAdd(count, 1)] = row;
}

}  // namespace vtp::cuda
