// Rounding of codes and rows, and the bounds of what it takes: done once for each.
#pragma once

#include "search_workspace.cuh"

namespace vtp::cuda {

__device__ __forceinline__ double warp_total(double x) {
  for (int lanes = 16; lanes != 0; lanes /= 2) x += __shfl_xor_sync(kFullWarp, x, lanes);
  return x;
}

// Not below x, whatever the sums that x came from have lost.
__device__ __forceinline__ float above(double x) { return static_cast<float>(x * (1.0 + 0x1p-18)); }

// What `prepare` finds out about a row or a code. Sums are over its entries.
struct Rounded {
  double square, norm_bf16, residual_bf16, norm_float, residual_float;
  bool is_void, is_hard;
};

// Centres, scales and rounds a row by a warp. Void (NaN) and hard (beyond the range) rows become zeros.
__device__ __forceinline__ Rounded round_row(const Problem& problem, const Side& side, int64_t row,
                                             const Workspace& space, Bf16* to, int padded_width) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const double scale = space.meta->scale;
  Rounded sums{};
  bool has_nan = false, has_huge = false;
  for (int d = lane; d < padded_width; d += 32) {
    double x = 0.0;
    if (d < problem.width) {
      has_nan = has_nan || isnan(side.at(row, d));
      // The definition squares before a small weight makes it harmless.
      has_huge = has_huge || fabs(side.at(row, d) - space.centre[d]) >= 0x1p500;
      x = framed(space, side, row, d, scale);
    }
    const float single = static_cast<float>(x);
    const Bf16 half = from_float<Bf16>(single);
    const double b = to_double(half), f = single;
    to[d] = half;
    sums.square += x * x;
    sums.norm_bf16 += b * b;
    sums.residual_bf16 += (x - b) * (x - b);
    sums.norm_float += f * f;
    sums.residual_float += (x - f) * (x - f);
  }
  sums.is_void = __any_sync(kFullWarp, has_nan) != 0;
  sums.square = warp_total(sums.square);
  const bool huge = __any_sync(kFullWarp, has_huge) != 0;
  sums.is_hard = !sums.is_void && (huge || !(sums.square < 0x1p100));
  if (sums.is_void || sums.is_hard) {
    for (int d = lane; d < padded_width; d += 32) to[d] = Bf16{0};
    sums.square = sums.norm_bf16 = sums.residual_bf16 = sums.norm_float = sums.residual_float = 0.0;
    return sums;
  }
  sums.norm_bf16 = sqrt(warp_total(sums.norm_bf16));
  sums.residual_bf16 = sqrt(warp_total(sums.residual_bf16));
  sums.norm_float = sqrt(warp_total(sums.norm_float));
  sums.residual_float = sqrt(warp_total(sums.residual_float));
  return sums;
}

// One block of 256 threads a panel: each warp takes eight codes.
__global__ void prepare_codes(Problem problem, int codes, int padded_width, Workspace space) {
  VTP_SHARED(memory);
  Panel* worst = reinterpret_cast<Panel*>(memory);  // (8 warps, bf16 and float)
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  Panel bf16{}, single{};
  for (int i = 0; i < kPanel / 8; ++i) {
    const int code = static_cast<int>(blockIdx.x) * kPanel + i * 8 + warp;
    Bf16* to = space.codes_bf16 + static_cast<int64_t>(code) * padded_width;
    if (code >= codes) {
      for (int d = lane; d < padded_width; d += 32) to[d] = Bf16{0};
      if (lane == 0) space.bias[code] = -INFINITY;
      continue;
    }
    const Rounded row = round_row(problem, problem.codes, code, space, to, padded_width);
    // Codes without a direction are all at distance 1: the first of them will do.
    const bool is_zero = problem.codes.directionless(code);
    int apart = 0;
    if (lane == 0 && !row.is_void) {
      atomicMin(&space.meta->first_valid, code);
      if (is_zero) {
        atomicMin(&space.meta->first_zero, code);
      } else if (row.is_hard) {
        const int slot = atomicAdd(&space.meta->hard_count, 1);
        if (slot < kHard) space.meta->hard[slot] = code;
      } else if (row.square > 1024.0 * problem.width) {  // the scale has brought usual entries near 1
        const int slot = atomicAdd(&space.meta->far_count, 1);
        if (slot < kFar) {
          space.meta->far[slot] = code;
          apart = 1;
        }
      }
    }
    apart = __shfl_sync(kFullWarp, apart, 0);
    const bool is_screened = !(row.is_void || row.is_hard || is_zero || apart != 0);
    const float bias = static_cast<float>(-0.5 * row.square);
    if (lane == 0) space.bias[code] = is_screened ? bias : -INFINITY;
    if (!is_screened) continue;
    const float slack = above(fabs(-0.5 * row.square - bias));
    bf16.norm = fmaxf(bf16.norm, above(row.norm_bf16));
    bf16.residual = fmaxf(bf16.residual, above(row.residual_bf16));
    single.norm = fmaxf(single.norm, above(row.norm_float));
    single.residual = fmaxf(single.residual, above(row.residual_float));
    bf16.bias = single.bias = fmaxf(bf16.bias, above(0.5 * row.square));
    bf16.slack = single.slack = fmaxf(bf16.slack, slack);
  }
  if (lane == 0) {
    worst[warp] = bf16;
    worst[8 + warp] = single;
  }
  __syncthreads();
  if (threadIdx.x >= 2) return;
  Panel panel = worst[8 * threadIdx.x];
  for (int i = 1; i < 8; ++i) {
    const Panel other = worst[8 * threadIdx.x + i];
    panel = Panel{fmaxf(panel.norm, other.norm), fmaxf(panel.residual, other.residual),
                  fmaxf(panel.bias, other.bias), fmaxf(panel.slack, other.slack)};
  }
  (threadIdx.x == 0 ? space.panels_bf16 : space.panels_float)[blockIdx.x] = panel;
}

// 256 threads, a warp a row. Pad rows become zeros.
__global__ void prepare_rows(Problem problem, int rows, int padded_width, Workspace space) {
  const int row = static_cast<int>(blockIdx.x) * 8 + static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  Bf16* to = space.rows_bf16 + static_cast<int64_t>(row) * padded_width;
  if (row >= rows) {
    for (int d = lane; d < padded_width; d += 32) to[d] = Bf16{0};
    if (lane == 0) space.bounds[row] = RowBound{};
    return;
  }
  const Rounded found = round_row(problem, problem.vectors, row, space, to, padded_width);
  if (lane != 0) return;
  space.bounds[row] = RowBound{above(found.norm_bf16), above(found.residual_bf16), above(found.norm_float),
                               above(found.residual_float)};
  space.undecided[row] = 0;
  int kind = kScreened;
  if (found.is_void) {
    kind = kVoid;
  } else if (problem.vectors.directionless(row)) {
    kind = kDirectionless;
  } else if (found.is_hard || space.meta->hard_count > kHard) {
    kind = kScan;
    space.scan_list[atomicAdd(&space.meta->scan_count, 1)] = row;
  }
  space.kind[row] = kind;
}

}  // namespace vtp::cuda
