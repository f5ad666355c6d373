// The definition itself: for the candidates that the screens left, or for every code.
#pragma once

#include "search_workspace.cuh"

namespace vtp::cuda {

struct Scan {
  static constexpr int kThreads = 256;
  static constexpr int kRows = 8, kCodes = 32, kDepth = 64, kPitch = kDepth + 1;
  static constexpr int kShared = (kRows + kCodes) * kPitch * 8;
};

// All codes for the listed rows: grid (blocks, scan splits), a warp a row, a lane a code.
__global__ void __launch_bounds__(256, 1) scan(Problem problem, Plan plan, Workspace space) {
  using S = Scan;
  VTP_SHARED(memory);
  double* row_tile = reinterpret_cast<double*>(memory);
  double* code_tile = row_tile + S::kRows * S::kPitch;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int split = static_cast<int>(blockIdx.y), splits = static_cast<int>(gridDim.y);
  const int begin_code = static_cast<int>(static_cast<int64_t>(plan.codes) * split / splits);
  const int end_code = static_cast<int>(static_cast<int64_t>(plan.codes) * (split + 1) / splits);
  const int listed = space.meta->scan_count;
  for (int start = static_cast<int>(blockIdx.x) * S::kRows; start < listed;
       start += static_cast<int>(gridDim.x) * S::kRows) {
    auto row_at = [&](int i) { return space.scan_list[start + i < listed ? start + i : listed - 1]; };
    const int row = row_at(warp);
    Nearest nearest{INFINITY, -1};
    for (int first = begin_code; first < end_code; first += S::kCodes) {
      double lanes[8] = {};
      for (int depth = 0; depth < plan.width; depth += S::kDepth) {
        __syncthreads();
        for (int i = thread; i < (S::kRows + S::kCodes) * S::kDepth; i += S::kThreads) {
          const int line = i / S::kDepth, d = depth + i % S::kDepth;
          const int code = first + line - S::kRows;
          double x = 0.0;
          if (d < plan.width && line < S::kRows) x = problem.vectors.at(row_at(line), d);
          if (d < plan.width && line >= S::kRows && code < end_code) x = problem.codes.at(code, d);
          row_tile[line * S::kPitch + i % S::kDepth] = x;
        }
        __syncthreads();
        const int most = plan.width - depth < S::kDepth ? plan.width - depth : S::kDepth;
        const double* x = row_tile + warp * S::kPitch;
        const double* c = code_tile + lane * S::kPitch;
        for (int d = 0; d < most; d += 8) {
          VTP_UNROLL
          for (int i = 0; i < 8; ++i) {
            if (d + i < most) lanes[i] = __dadd_rn(lanes[i], term(x[d + i], c[d + i], problem.weight, depth + d + i));
          }
        }
      }
      for (int half = 4; half != 0; half /= 2) {
        for (int i = 0; i < half; ++i) lanes[i] = __dadd_rn(lanes[i], lanes[i + half]);
      }
      const int code = first + lane;
      if (code < end_code) nearest.offer(finish(problem, lanes[0], row, code), code);
    }
    for (int lanes = 16; lanes != 0; lanes /= 2) nearest.merge(lanes);
    if (lane == 0 && start + warp < listed) space.scanned[static_cast<int64_t>(row) * splits + split] = nearest;
  }
}

// Offers the codes of the lanes with `wanted`, four at a time.
__device__ __forceinline__ void evaluate(const Problem& problem, int row, bool wanted, int code, Nearest& nearest) {
  unsigned left = __ballot_sync(kFullWarp, wanted);
  const int group = static_cast<int>(threadIdx.x % 32 / 8);
  while (left != 0) {
    unsigned mine = left;
    for (int i = 0; i < group && (mine & (mine - 1)) != 0; ++i) mine &= mine - 1;  // or the last, once more
    const int from = __ffs(static_cast<int>(mine)) - 1;
    const int k = __shfl_sync(kFullWarp, code, from);
    nearest.offer(pair_distance(problem, row, k), k);
    for (int i = 0; i < 4; ++i) left &= left - 1;
  }
}

// A warp a row; `index` and `distance` start at row 0 of the workspace.
__global__ void __launch_bounds__(256, 1) choose(Problem problem, Plan plan, int rows, Workspace space,
                                              long long* index, void* distance) {
  const int row = static_cast<int>(blockIdx.x) * 8 + static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (row >= rows) return;
  const Meta& meta = *space.meta;
  const int kind = space.kind[row];
  Nearest nearest{INFINITY, -1};
  if (kind >= kVoid) {
  } else if (kind >= kDirectionless) {
    if (meta.first_valid < plan.codes) nearest = Nearest{1.0, meta.first_valid};
  } else if (kind != kScreened) {
    if (lane < plan.scan_splits) nearest = space.scanned[static_cast<int64_t>(row) * plan.scan_splits + lane];
    for (int lanes = 16; lanes != 0; lanes /= 2) nearest.merge(lanes);
  } else {
    const int64_t at = static_cast<int64_t>(row) * plan.splits;
    float low = -INFINITY;
    for (int split = 0; split < plan.splits; ++split) low = fmaxf(low, space.low[at + split]);
    for (int split = 0; split < plan.splits; ++split) {
      const Candidate* list = space.candidates + (static_cast<int64_t>(split) * plan.chunk + row) * kListed;
      const bool is_listed = lane < space.counts[at + split];
      const Candidate candidate = is_listed ? list[lane] : Candidate{0, 0.0f};
      evaluate(problem, row, is_listed && candidate.upper >= low, candidate.code, nearest);
    }
    for (int first = 0; first < kHard; first += 32) {
      const bool is_hard = first + lane < meta.hard_count;
      evaluate(problem, row, is_hard, is_hard ? meta.hard[first + lane] : 0, nearest);
    }
    const bool is_far = lane < (meta.far_count < kFar ? meta.far_count : kFar);
    evaluate(problem, row, is_far, is_far ? meta.far[lane] : 0, nearest);
    evaluate(problem, row, lane == 0 && meta.first_zero < plan.codes, meta.first_zero, nearest);
    for (int lanes = 8; lanes != 32; lanes *= 2) nearest.merge(lanes);
  }
  if (lane != 0) return;
  const double found = nearest.code < 0 ? NAN : nearest.distance;
  index[row] = nearest.code;
  if (problem.vectors.matrix.type == Type::f64) {
    static_cast<double*>(distance)[row] = found;
  } else {
    static_cast<float*>(distance)[row] = static_cast<float>(found);
  }
}

}  // namespace vtp::cuda
