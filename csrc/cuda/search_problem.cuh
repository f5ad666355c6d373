// What the kernels of the nearest-code search share: the inputs and the definition of the distance.
//
// The search of a block of rows: `prepare` centres and rounds, `screen_bf16` finds the codes that could be nearest
// by tensor-core products with a rigorous window, rows that keep too many go through `screen_float`, those that are
// still undecided through `scan`, and `choose` evaluates the definition on what is left. The definition is that of
// vtp_core/ops/nearest_code_distance.py, to the last bit; all else may only decide what need not be evaluated.
#pragma once

#include "device.cuh"

namespace vtp::cuda {

enum class Metric : int { l2, cosine, weighted };

// (rows, width) with neighbouring elements of a row side by side.
struct Matrix {
  const void* data;
  int64_t stride;  // elements from a row to the next
  int64_t rows;
  Type type;

  __device__ double at(int64_t row, int d) const {
    const int64_t i = row * stride + d;
    switch (type) {
      case Type::f32:
        return to_double(static_cast<const float*>(data)[i]);
      case Type::f64:
        return static_cast<const double*>(data)[i];
      case Type::bf16:
        return to_double(static_cast<const Bf16*>(data)[i]);
      default:
        return to_double(static_cast<const Half*>(data)[i]);
    }
  }
};

// What makes the unit vector of a row for `cosine`: x * scale * factor, each product rounded. factor = 0: zeros.
struct Unit {
  double scale, factor;
};

struct Side {
  Matrix matrix;
  const Unit* units;  // null unless cosine

  __device__ double at(int64_t row, int d) const {
    const double x = matrix.at(row, d);
    return units == nullptr ? x : __dmul_rn(__dmul_rn(x, units[row].scale), units[row].factor);
  }
  __device__ bool directionless(int64_t row) const { return units != nullptr && units[row].factor == 0.0; }
};

struct Problem {
  Side vectors, codes;
  int width;
  Metric metric;
  const double* weight;  // (width), null unless weighted
};

// Sum of the eight lanes of a group, in the defined order; every lane gets it.
__device__ __forceinline__ double lane_total(double lane) {
  lane = __dadd_rn(lane, __shfl_xor_sync(kFullWarp, lane, 4));
  lane = __dadd_rn(lane, __shfl_xor_sync(kFullWarp, lane, 2));
  return __dadd_rn(lane, __shfl_xor_sync(kFullWarp, lane, 1));
}

__device__ __forceinline__ double term(double x, double c, const double* weight, int d) {
  const double difference = __dsub_rn(x, c);
  const double square = __dmul_rn(difference, difference);
  return weight == nullptr ? square : __dmul_rn(square, weight[d]);
}

// From the sum of the terms to the distance.
__device__ __forceinline__ double finish(const Problem& problem, double sum, int64_t row, int64_t code) {
  if (problem.metric != Metric::cosine || isnan(sum)) return sum;
  if (problem.vectors.directionless(row) || problem.codes.directionless(code)) return 1.0;
  return sum * 0.5;
}

// The distance of one pair, by a group of eight lanes; all 32 lanes of the warp call it.
__device__ __forceinline__ double pair_distance(const Problem& problem, int64_t row, int64_t code) {
  double sum = 0.0;
  for (int d = static_cast<int>(threadIdx.x % 8); d < problem.width; d += 8) {
    sum = __dadd_rn(sum, term(problem.vectors.at(row, d), problem.codes.at(code, d), problem.weight, d));
  }
  return finish(problem, lane_total(sum), row, code);
}

// The nearest so far; NaN is never the nearest, the lower code wins a tie.
struct Nearest {
  double distance;
  int code;

  __device__ void offer(double d, int k) {
    if (k < 0 || isnan(d)) return;
    if (code < 0 || d < distance || (d == distance && k < code)) {
      distance = d;
      code = k;
    }
  }
  __device__ void merge(int lanes) {
    const double d = __shfl_xor_sync(kFullWarp, distance, lanes);
    offer(d, __shfl_xor_sync(kFullWarp, code, lanes));
  }
};

}  // namespace vtp::cuda
