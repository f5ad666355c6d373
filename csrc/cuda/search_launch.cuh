// The sequence of kernels that makes a search; nothing here waits for the device.
#pragma once

#include "launch.cuh"
#include "search_decide.cuh"
#include "search_frame.cuh"
#include "search_prepare.cuh"
#include "search_screen.cuh"
#include "search_screen_float.cuh"

namespace vtp::cuda {

inline size_t element_size(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }

template <int Steps>
void launch_screen(const Plan& plan, int rows, const Workspace& space, Stream stream) {
  using S = Screen<Steps>;
  static_assert(S::kShared <= kMostShared);
  const dim3 grid((rows + S::kRows - 1) / S::kRows, plan.splits);
  VTP_LAUNCH(screen_bf16<Steps>, grid, S::kThreads, S::kShared, stream, plan, rows, space);
}

// Finds the nearest code of every row of problem.vectors. The units of both sides point into the workspace; for
// metrics other than cosine they are null. `distance` is float64 for float64 vectors, else float32.
inline void launch_search(Problem problem, const Plan& plan, const Workspace& space, long long* index, void* distance,
                          Stream stream) {
  const bool cosine = problem.metric == Metric::cosine;
  const Matrix vectors = problem.vectors.matrix;
  const size_t element = element_size(vectors.type), result = vectors.type == Type::f64 ? 8 : 4;
  problem.codes.units = cosine ? space.code_units : nullptr;
  problem.vectors.units = cosine ? space.row_units : nullptr;

  VTP_LAUNCH(begin, 1, 32, 0, stream, space);
  if (cosine) {
    VTP_LAUNCH(unit_factors, (plan.codes + 31) / 32, 256, 0, stream, problem.codes.matrix, plan.codes, plan.width,
               space.code_units);
  }
  const int partitions = plan.codes < kPartitions ? plan.codes : kPartitions;
  VTP_LAUNCH(exponents, partitions, 256, 256 * 4, stream, problem, plan.codes, plan.padded_width, space);
  VTP_LAUNCH(moments, partitions, 256, 256 * 8, stream, problem, plan.codes, plan.padded_width, space);
  VTP_LAUNCH(centre, 1, 256, 256 * (sizeof(Exponents) + 8), stream, problem, plan.codes, plan.padded_width, partitions,
             space);
  VTP_LAUNCH(prepare_codes, plan.padded_codes / kPanel, 256, 16 * sizeof(Panel), stream, problem, plan.codes,
             plan.padded_width, space);

  for (int64_t first = 0; first < vectors.rows; first += plan.chunk) {
    const int64_t left = vectors.rows - first;
    const int rows = static_cast<int>(left < plan.chunk ? left : plan.chunk);
    problem.vectors.matrix.data =
        static_cast<const char*>(vectors.data) + first * vectors.stride * static_cast<int64_t>(element);
    if (first != 0) VTP_LAUNCH(begin_rows, 1, 32, 0, stream, space);
    if (cosine) {
      VTP_LAUNCH(unit_factors, (rows + 31) / 32, 256, 0, stream, problem.vectors.matrix, rows, plan.width,
                 space.row_units);
    }
    VTP_LAUNCH(prepare_rows, round_up(rows, kPadRows) / 8, 256, 0, stream, problem, rows, plan.padded_width, space);
    if (plan.padded_width == 16) {
      launch_screen<1>(plan, rows, space, stream);
    } else if (plan.padded_width == 32) {
      launch_screen<2>(plan, rows, space, stream);
    } else if (plan.padded_width == 64) {
      launch_screen<4>(plan, rows, space, stream);
    } else {
      launch_screen<0>(plan, rows, space, stream);
    }
    const int float_blocks = (rows + FloatScreen::kRows - 1) / FloatScreen::kRows;
    const int scan_blocks = (rows + Scan::kRows - 1) / Scan::kRows;
    VTP_LAUNCH(screen_float, dim3(float_blocks < 256 ? float_blocks : 256, plan.splits), FloatScreen::kThreads,
               FloatScreen::kShared, stream, problem, plan, space);
    VTP_LAUNCH(scan, dim3(scan_blocks < 256 ? scan_blocks : 256, plan.scan_splits), Scan::kThreads, Scan::kShared,
               stream, problem, plan, space);
    VTP_LAUNCH(choose, (rows + 7) / 8, 256, 0, stream, problem, plan, rows, space, index + first,
               static_cast<char*>(distance) + first * static_cast<int64_t>(result));
  }
}

}  // namespace vtp::cuda
