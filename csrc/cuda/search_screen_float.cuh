// The screen in float32, by fused multiply-adds: for the rows that bf16 could not decide.
#pragma once

#include "search_window.cuh"

namespace vtp::cuda {

struct FloatScreen {
  static constexpr int kThreads = 128;
  static constexpr int kRows = 128;  // a block; 32 a warp, in four groups of eight lanes
  static constexpr int kDepth = 16;
  static constexpr int kRowPitch = kRows + 4, kCodePitch = kPanel + 4;  // floats; one row of it per dimension
  static constexpr int kShared = (kDepth * (kRowPitch + kCodePitch) + 2 * kRows) * 4;
};

// Grid (blocks, splits): blocks take turns at the listed rows.
__global__ void __launch_bounds__(128, 1) screen_float(Problem problem, Plan plan, Workspace space) {
  using S = FloatScreen;
  VTP_SHARED(memory);
  float* row_tile = reinterpret_cast<float*>(memory);
  float* code_tile = row_tile + S::kDepth * S::kRowPitch;
  int* row_ids = reinterpret_cast<int*>(code_tile + S::kDepth * S::kCodePitch);
  int* counts = row_ids + S::kRows;
  const int thread = static_cast<int>(threadIdx.x);
  const int my_rows = thread / 32 * 32 + thread % 32 / 8 * 8, my_codes = thread % 8 * 8;
  const int split = static_cast<int>(blockIdx.y), splits = static_cast<int>(gridDim.y);
  const int pairs = plan.padded_codes / kPadCodes;
  const int begin_code = static_cast<int>(static_cast<int64_t>(pairs) * split / splits) * kPadCodes;
  const int end_code = static_cast<int>(static_cast<int64_t>(pairs) * (split + 1) / splits) * kPadCodes;
  const int listed = space.meta->undecided_count;
  const double scale = space.meta->scale;
  Candidate* lists = space.candidates + static_cast<int64_t>(split) * plan.chunk * kListed;

  for (int start = static_cast<int>(blockIdx.x) * S::kRows; start < listed;
       start += static_cast<int>(gridDim.x) * S::kRows) {
    __syncthreads();
    const bool is_row = start + thread < listed;
    row_ids[thread] = space.undecided_list[is_row ? start + thread : listed - 1];
    counts[thread] = 0;
    __syncthreads();
    Window<8, 8, 8> window;
    window.begin(gamma_float(plan.padded_width), plan.width, space.meta->underflow);
    for (int i = 0; i < 8; ++i) {
      const RowBound bound = space.bounds[row_ids[my_rows + i]];
      window.norm[i] = bound.norm_float;
      window.residual[i] = bound.residual_float;
      if (start + my_rows + i >= listed) window.low[i] = kNoRow;
    }
    for (int code = begin_code; code < end_code; code += kPanel) {
      float score[8][8];
      VTP_UNROLL
      for (int j = 0; j < 8; ++j) {
        const float bias = space.bias[code + my_codes + j];
        VTP_UNROLL
        for (int i = 0; i < 8; ++i) score[i][j] = bias;
      }
      for (int depth = 0; depth < plan.padded_width; depth += S::kDepth) {
        __syncthreads();
        for (int i = thread; i < S::kRows * S::kDepth; i += S::kThreads) {
          const int row = i / S::kDepth, d = depth + i % S::kDepth;
          const double x = d < plan.width ? framed(space, problem.vectors, row_ids[row], d, scale) : 0.0;
          row_tile[i % S::kDepth * S::kRowPitch + row] = static_cast<float>(x);
        }
        for (int i = thread; i < kPanel * S::kDepth; i += S::kThreads) {
          const int row = i / S::kDepth, d = depth + i % S::kDepth;
          const bool is_screened = d < plan.width && space.bias[code + row] > -INFINITY;
          const double x = is_screened ? framed(space, problem.codes, code + row, d, scale) : 0.0;
          code_tile[i % S::kDepth * S::kCodePitch + row] = static_cast<float>(x);
        }
        __syncthreads();
        for (int d = 0; d < S::kDepth; ++d) {
          float x[8], c[8];
          VTP_UNROLL
          for (int i = 0; i < 8; ++i) x[i] = row_tile[d * S::kRowPitch + my_rows + i];
          VTP_UNROLL
          for (int j = 0; j < 8; ++j) c[j] = code_tile[d * S::kCodePitch + my_codes + j];
          VTP_UNROLL
          for (int i = 0; i < 8; ++i) {
            VTP_UNROLL
            for (int j = 0; j < 8; ++j) score[i][j] = fmaf(x[i], c[j], score[i][j]);
          }
        }
      }
      window.take(
          space.panels_float[code / kPanel], [&](int i, int j) { return score[i][j]; },
          [&](int j) { return code + my_codes + j; },
          [&](int i) {
            const int row = my_rows + i;
            return Place{&counts[row], lists + static_cast<int64_t>(row_ids[row]) * kListed};
          });
    }
    for (int i = 0; i < 8; ++i) {
      if (thread % 8 != 0 || start + my_rows + i >= listed) continue;
      const int row = row_ids[my_rows + i];
      const int64_t at = static_cast<int64_t>(row) * splits + split;
      space.low[at] = window.low[i];
      space.counts[at] = counts[my_rows + i];
      if (counts[my_rows + i] > kListed) mark(&space.kind[row], space.scan_list, &space.meta->scan_count, row);
    }
  }
}

}  // namespace vtp::cuda
